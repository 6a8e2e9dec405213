"""Files of strangers that name other places, hold code, or unpack to much: nothing outside is read, nothing runs."""

import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import threading
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat import Features, InputError, ModelError
from ditifeat.data.decode import decode
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import SourceReport, sources
from ditifeat.errors import DitifeatError, ImageDecodeError, RecipeError
from ditifeat.model.config import read_config
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderSpec, build_encoder, write_encoder
from ditifeat.model.partition import TimeStepPartition
from ditifeat.pretrained.official import convert
from ditifeat.train.recipe import load_recipe, recipe_to_dict
from tests.conftest import make_image, random_model, tiny_recipe
from tests.hostile.harness import MIB, reset_peak, status
from tests.hostile.mutate import png_chunks, png_file
from tests.pretrained.test_official import SPEC, write


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A whole model's folder, which a test spoils."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Payloads make a folder `ran` in the current one."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def small_memory():
    """What a test takes stays below 200 MiB."""
    reset_peak()
    before = status("VmRSS")
    yield
    assert status("VmHWM") - before < 200 * MIB


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Configurations.


@pytest.mark.parametrize(
    "repo",
    [
        "../..",
        "/etc",
        "../dm",
        "./dm",
        "org/..",
        "../org",
        "org/name/..",
        "~/dm",
        "C:\\dm",
        "org/na me",
        "-o/x",
        ".a/b",
        "a..b/c",
    ],
)
def test_a_configuration_names_no_folder(folder, repo):
    change(folder / "config.json", dm={"repo": repo, "commit": "0" * 40})
    with pytest.raises(ModelError, match="is not org/name"):
        read_config(folder)


@pytest.mark.parametrize("revision", ["../../etc", "..", "a/../b", "/etc"])
def test_a_revision_names_no_folder(revision, hub):
    for call in (
        lambda: ditifeat.load_encoder(f"org/model@{revision}", cache_dir=hub.cache),
        lambda: ditifeat.load_encoder("org/model", revision=revision, cache_dir=hub.cache),
    ):
        with pytest.raises(DitifeatError, match=r"revision|org/name"):
            call()
    assert hub.asked == []


CODE = {
    "auto_map": {"AutoModel": "evil.Evil"}, "_class_name": "os.mkdir", "_target_": "os.mkdir", "trust_remote_code": True,
    "encoder": {"channels": [32], "style": "os.mkdir"}, "method": "os.mkdir", "codec": {"kind": "os.mkdir"},
    "dm": {"path": "/etc"},
}  # fmt: skip


@pytest.mark.parametrize("key", CODE)
def test_a_configuration_names_no_code(folder, key):
    (folder / "evil.py").write_text("import os; os.mkdir('ran')")
    change(folder / "config.json", **{key: CODE[key]})
    with pytest.raises(ModelError):
        ditifeat.load_encoder(folder)


@pytest.mark.parametrize(
    "name", ["os.mkdir", "AutoModel", "DDPMPipeline", "../evil", 3, None, ["UNet2DModel"], {"a": 1}]
)
@pytest.mark.parametrize("file", ["dm/unet/config.json", "dm/scheduler/scheduler_config.json"])
def test_a_network_of_another_class_is_refused(folder, file, name):
    (folder / "dm" / "evil.py").write_text("import os; os.mkdir('ran')")
    change(folder / file, _class_name=name)
    with pytest.raises(ModelError):
        DiTi.load(folder)


HUGE = [
    {"latent_dim": 10**9, "partition": {"k": 8, "d": 10**9}}, {"latent_dim": 65536, "partition": {"k": 1000, "d": 65536}},
    {"image": {"size": 10**9}}, {"image": {"size": 1024}}, {"partition": {"k": 10**9, "d": 32}},
    {"partition": {"k": 8, "d": 32, "num_time_steps": 10**12}}, {"encoder": {"channels": [10**9]}},
    {"encoder": {"channels": [2048] * 10}}, {"encoder": {"channels": [32] * 10**5}}, {"encoder": {"channels": [32], "heads": 10**9}},
    {"encoder": {"channels": [32, 32], "style": "residual", "layers": 10**9}},
    {"encoder": {"channels": [32, 32], "style": "residual", "unshuffle": 10**9}}, {"codec": {"kind": "unshuffle", "factor": 10**9}},
    {"dm": {"attention_heads": 10**9}},
]  # fmt: skip


@pytest.mark.parametrize("values", HUGE, ids=range(len(HUGE)))
def test_a_configuration_of_huge_sizes_takes_no_memory(folder, values, small_memory):
    change(folder / "config.json", **values)
    with pytest.raises(ModelError):
        ditifeat.load_encoder(folder)
        DiTi.load(folder)


def test_masks_of_a_partition_are_bounded():
    with pytest.raises(InputError, match="k x d"):
        TimeStepPartition(100_000, 65536, 100_000)


@pytest.mark.parametrize("kind", ["published", "decoded"])
def test_an_estimator_is_built_without_memory_before_its_weights_are_there(tmp_path, kind, small_memory):
    """All of a folder fits its configuration, but for the estimator, which would be huge."""
    d = 65536
    model = random_model(tiny_recipe(encoder=EncoderSpec((32,) * 5)))
    model.save(tmp_path / "model")
    change(tmp_path / "model" / "config.json", latent_dim=d, partition={"k": 1, "d": d}, estimator=kind)
    with torch.device("meta"):
        encoder = build_encoder(model.config.encoder, 32, d)
    encoder = encoder.to_empty(device="cpu").half()
    for parameter in encoder.parameters():
        parameter.data.zero_()
    write_encoder(tmp_path / "model", encoder, torch.zeros(d), torch.ones(d), torch.float16)
    with pytest.raises(ModelError, match=r"estimator\.safetensors"):
        DiTi.load(tmp_path / "model")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["norm_eps", "mid_block_scale_factor", "dropout"])
def test_numbers_of_a_network_are_finite(folder, key, text):
    path = folder / "dm" / "unet" / "config.json"
    change(path, **{key: 123456789})
    path.write_text(path.read_text().replace("123456789", text))
    with pytest.raises(ModelError, match=key):
        DiTi.load(folder)


# Links and files that are none.


SPECIAL = {
    "fifo": os.mkfifo,
    "device": lambda path: os.symlink("/dev/zero", path),
    "folder": os.mkdir,
    "loop": lambda path: os.symlink(path, path),
    "nothing": lambda path: os.symlink("/nowhere", path),
}


def within(seconds, call):
    """What a call raises; it must end soon."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_what_is_no_file_is_not_read_as_one(folder, kind, file, small_memory):
    (folder / file).unlink()
    SPECIAL[kind](folder / file)
    assert isinstance(within(20, lambda: ditifeat.load_encoder(folder)), ModelError)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["a.png", "a"])
def test_what_is_no_file_is_no_image(tmp_path, kind, name, small_memory):
    (tmp_path / "x").mkdir()
    make_image().save(tmp_path / "x" / "good.png")
    SPECIAL[kind](tmp_path / "x" / name)
    names = []

    def read():
        for label, read in sources(tmp_path / "x"):
            try:
                read()
            except ImageDecodeError:
                continue
            names.append(label)

    assert within(20, read) is None and names == ["good.png"]
    if kind != "folder":
        assert isinstance(within(20, lambda: decode(tmp_path / "x" / name, "x")), DitifeatError)


def test_a_link_out_of_a_model_is_not_pushed(folder, tmp_path, hub):
    from ditifeat.pretrained.push import push

    (tmp_path / "secret").write_text("mine")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="link"):
        push(folder, "org/new")
    assert hub.asked == []


# Pickles, YAML, npz.


def pickles(payload):
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(payload, plain)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload))
        archive.writestr("archive/version", "3")
    legacy = io.BytesIO()
    torch.save(payload, legacy, _use_new_zipfile_serialization=False)
    return {"zip": plain.getvalue(), "packed": packed.getvalue(), "legacy": legacy.getvalue(), "bare": pickle.dumps(payload),
            "old": pickle.dumps(payload, 0)}  # fmt: skip


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "mkdir": Calls(os.mkdir, "ran"), "system": Calls(os.system, "mkdir ran"), "eval": Calls(eval, "__import__('os').mkdir('ran')"),
    "nested": {"ema_encoder": {"encoder.0.weight": Calls(os.mkdir, "ran")}},
    "load": Calls(torch.load, "x"), "set": {"a": [{1: Calls(os.mkdir, "ran")}]},
}  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("way", ["zip", "packed", "legacy", "bare", "old"])
@pytest.mark.parametrize("place", ["run/checkpoints/latest.pt", "dpm/checkpoint.pt"])
def test_a_pickle_with_a_payload_does_not_run(official, way, payload, place):
    whole = (official / place).read_bytes()
    (official / place).write_bytes(pickles(PAYLOADS[payload])[way])
    try:
        with pytest.raises(ModelError):
            convert(official / "run", official / "dpm")
    finally:
        (official / place).write_bytes(whole)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    write(folder, SPEC)
    return folder


def test_a_packed_checkpoint_is_not_unpacked(official, small_memory):
    place = official / "dpm" / "checkpoint.pt"
    whole = place.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
        packed.writestr("archive/data/999", bytes(2**26))
    try:
        with pytest.raises(ModelError, match="compressed"):
            convert(official / "run", official / "dpm")
    finally:
        place.write_bytes(whole)


STEPS = [(chr(i), chr(i + 1)) for i in range(ord("a"), ord("p"))]

YAMLS = {
    "apply": '!!python/object/apply:os.mkdir ["ran"]', "new": '!!python/object/new:os.mkdir ["ran"]', "name": "!!python/name:os.mkdir",
    "module": "!!python/module:os", "value": 'name: !!python/object/apply:os.system ["mkdir ran"]', "tuple": "!!python/tuple [1]",
    "laughs": "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [{', '.join(4 * ['*' + a])}]" for a, b in STEPS) + "\nname: *p",
    "merges": "a: &a {x: 1}\n" + "\n".join(f"{b}: &{b} {{<<: [{', '.join(4 * ['*' + a])}]}}" for a, b in STEPS),
    "itself": "name: &a [*a]", "deep": "[" * 5000, "many": "name: " + "{a: " * 5000,
}  # fmt: skip


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_holds_no_code_and_does_not_grow(official, tmp_path, text, small_memory):
    (tmp_path / "recipe.yaml").write_text(YAMLS[text])
    error = within(30, lambda: load_recipe(tmp_path / "recipe.yaml"))
    assert isinstance(error, RecipeError) and len(str(error)) < 2000
    place = official / "dpm" / "config.yml"
    whole = place.read_text()
    place.write_text(YAMLS[text])
    try:
        error = within(30, lambda: convert(official / "run", official / "dpm"))
    finally:
        place.write_text(whole)
    assert isinstance(error, ModelError) and len(str(error)) < 2000


def test_a_hostile_value_makes_a_short_message(tmp_path):
    data = recipe_to_dict(tiny_recipe()) | {"name": [["x" * 10**4] * 10]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(data))
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert len(str(error.value)) < 2000


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    features = np.empty(2, object)
    features[:] = [Calls(os.mkdir, "ran"), 1]
    for about in ("{}", np.array([Calls(os.mkdir, "ran")], object)):
        np.savez(tmp_path / "x.npz", features=features, about=np.array(about))
        with pytest.raises(InputError):
            Features.load(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Calls(os.mkdir, "ran")))
    with pytest.raises(InputError):
        Features.load(tmp_path / "y.npz")
    np.save(tmp_path / "z.npy", features)
    (tmp_path / "z.npy.json").write_text("{}")
    with pytest.raises(InputError):
        Features.load(tmp_path / "z.npy")


def test_a_packed_npz_is_not_unpacked(tmp_path, small_memory):
    np.savez_compressed(tmp_path / "x.npz", features=np.zeros((4, 4), np.float32), about=np.array("x" * 2**26))
    reset_peak()  # making it takes more than reading it may
    with pytest.raises(InputError, match="compressed"):
        Features.load(tmp_path / "x.npz")


# Images that unpack to much.


def png_with(*chunks, size=(48, 40)):
    out = io.BytesIO()
    make_image(0, *size).save(out, "PNG")
    found = list(png_chunks(out.getvalue()))
    return png_file([found[0], *chunks, *found[1:]])


def packed_zeros(count):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count // 2**20)) + packer.flush()


@pytest.fixture(scope="module")
def zeros():
    return packed_zeros(2**28)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "IDAT", "eXIf"])
def test_png_bombs(zeros, kind, small_memory):
    head = {"zTXt": b"x\0\0", "iTXt": b"x\0\1\0\0\0", "iCCP": b"x\0\0"}.get(kind, b"")
    for chunks in ([(kind.encode(), head + zeros)], [(kind.encode(), head + zeros[: 2**17])] * 3):
        with suppress(ImageDecodeError):
            assert decode(png_with(*chunks), "x").size == (48, 40)  # what is not needed is not unpacked


@pytest.mark.parametrize("kind,at,form", [
    ("PNG", 16, ">II"), ("GIF", 6, "<HH"), ("BMP", 18, "<ii"), ("PPM", None, None), ("WEBP", 24, None), ("TIFF", None, None),
])  # fmt: skip
def test_a_header_of_a_huge_size_takes_no_memory(kind, at, form, small_memory):
    import struct

    out = io.BytesIO()
    make_image().save(out, kind)
    data = bytearray(out.getvalue())
    side = 65535 if kind == "GIF" else 300_000
    if kind == "PNG":
        chunks = list(png_chunks(bytes(data)))
        header = struct.pack(">II", side, side) + chunks[0][1][8:]
        data = png_file([(b"IHDR", header), *chunks[1:]])
    elif kind == "PPM":
        data = bytes(data).replace(b"48 40", b"300000 300000", 1)
    elif kind == "WEBP":
        out = io.BytesIO()
        make_image().convert("RGBA").save(
            out, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", save_all=True, append_images=[make_image(1)]
        )
        data = bytearray(out.getvalue())
        assert data[12:16] == b"VP8X"
        data[24:30] = (2**24 - 1).to_bytes(3, "little") * 2
    elif kind == "TIFF":
        place = int.from_bytes(data[4:8], "little")
        for entry in range(place + 2, place + 2 + 12 * int.from_bytes(data[place : place + 2], "little"), 12):
            if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    else:
        struct.pack_into(form, data, at, side, side)
    with pytest.raises(ImageDecodeError):
        decode(bytes(data), "x")


# Archives.


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data) if data is not None else 0
            tar.addfile(info, io.BytesIO(data) if data is not None else None)


def member(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def png_bytes(seed=0):
    out = io.BytesIO()
    make_image(seed).save(out, "PNG")
    return out.getvalue()


def outcomes(path, report=None):
    """Each image's name, and whether it is read."""
    found = {}
    for name, read in sources(path, report):
        try:
            read()
            found[name] = "read"
        except ImageDecodeError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_leads_nowhere_else(tmp_path, mode):
    secret = tmp_path / "secret.png"
    make_image(5).save(secret)
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / ("x.tar" if mode == "w" else "x.tar.gz")
    members = [
        ("../../up.png", png_bytes(1)), ("/etc/abs.png", png_bytes(2)), ("good.png", png_bytes(3)),
        (member("link.png", tarfile.SYMTYPE, "../secret.png"), None), (member("hard.png", tarfile.LNKTYPE, str(secret)), None),
        (member("absolute.png", tarfile.SYMTYPE, str(secret)), None), (member("passwd", tarfile.SYMTYPE, "/etc/passwd"), None),
        (member("device.png", tarfile.CHRTYPE), None), (member("fifo.png", tarfile.FIFOTYPE), None),
        (member("loop.png", tarfile.SYMTYPE, "loop.png"), None), (member("other.png", tarfile.SYMTYPE, "good.png"), None),
    ]  # fmt: skip
    tar_of(path, members, mode)
    report = SourceReport()
    found = outcomes(path, report)
    read = {name for name, outcome in found.items() if outcome == "read"}
    assert read == {"up.png", "etc/abs.png", "good.png", "other.png"}
    assert {name for name in found if "links to what is not" in found[name]} == {
        "link.png",
        "hard.png",
        "absolute.png",
        "loop.png",
    }
    assert report.left_out["special file"] == 2 and sorted(os.listdir(inside)) == [path.name]


def test_a_zip_leads_nowhere_else(tmp_path):
    make_image(5).save(tmp_path / "secret.png")
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "x.zip", "w") as archive:
        for name in ("../../up.png", "/etc/abs.png", "good.png", "..\\..\\windows.png", "C:\\x.png"):
            archive.writestr(name, png_bytes())
        for name, target in (
            ("link.png", "../secret.png"),
            ("absolute.png", str(tmp_path / "secret.png")),
            ("loop.png", "loop.png"),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    found = outcomes(inside / "x.zip")
    assert all(".." not in name.split("/") and not name.startswith("/") for name in found)
    refused = {name for name, outcome in found.items() if outcome != "read"}
    assert refused == {"link.png", "absolute.png", "loop.png"} and len(found) == 8 and os.listdir(inside) == ["x.zip"]


def bomb(path):
    """A small archive whose one image would be 1 GiB."""
    import gzip

    if path.suffix == ".zip":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("a.png", "w", force_zip64=True) as file,
        ):
            for _ in range(512):
                file.write(bytes(2**21))
        return
    info = tarfile.TarInfo("a.png")
    info.size = 2**30 - 1024
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf())
        for _ in range(512):
            file.write(bytes(2**21))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_archives_that_unpack_to_much(tmp_path, name):
    bomb(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 8 * MIB
    reset_peak()
    before = status("VmRSS")
    try:
        found = outcomes(tmp_path / name)
        assert all(outcome != "read" for outcome in found.values())
    except DitifeatError:
        pass
    assert status("VmHWM") - before < 1200 * MIB  # one image of the largest size


@pytest.mark.slow
def test_many_links_to_one_large_image_are_not_held_at_once(tmp_path):
    from ditifeat.data.batches import batches

    members = [("a.bmp", bytes(100 * MIB))] + [(member(f"{i}.bmp", tarfile.LNKTYPE, "a.bmp"), None) for i in range(60)]
    tar_of(tmp_path / "x.tar.gz", members, "w:gz")
    reset_peak()
    before = status("VmRSS")
    report = SourceReport()
    assert list(batches(tmp_path / "x.tar.gz", Preprocessing(32), 64, on_error="skip", report=report)) == []
    assert len(report.skipped) == 61 and status("VmHWM") - before < 1200 * MIB


# The Hub.


def test_other_files_of_a_repository_are_not_fetched(hub, tmp_path):
    served = hub.folder()
    for name in ("modeling.py", "__init__.py", "evil.pkl", "pytorch_model.bin", "setup.py", "dm/pipeline.py", "dm/unet/modeling.py",
                 "requirements.txt", "handler.py"):  # fmt: skip
        (served / name).write_text("import os; os.mkdir('ran')")
    (served / "dm" / "model_index.json").write_text(
        json.dumps({"_class_name": ["evil", "Evil"], "unet": ["evil", "Evil"]})
    )
    encoder = ditifeat.load_encoder("org/model", cache_dir=hub.options.cache_dir)
    assert encoder.model is not None
    encoder.attributes()
    assert not [file for file in hub.asked if not file.endswith((".json", ".safetensors"))]
    assert not list(hub.cache.rglob("*.py")) and not list(hub.cache.rglob("*.bin"))
