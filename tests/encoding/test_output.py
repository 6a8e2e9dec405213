"""Features written while they are made: the formats, going on after a stop, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat import Features, ImageDecodeError, InputError
from ditifeat.encoding import output, run, speed
from ditifeat.encoding.request import fingerprint
from ditifeat.errors import FolderInUseError
from ditifeat.files import exclusive
from tests.conftest import make_image

pytest.importorskip("pyarrow", reason="pyarrow is not installed; it comes with the extra parquet")

import pyarrow.parquet as pq

NAMES = ["x.npz", "x.safetensors", "x.npy", "x.parquet"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        make_image(i).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(output, "SHARD_ROWS", 3)


def content(path):
    features = Features.load(path)
    return list(features.names), features.array


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"flip_average": True, "crop": "center", "draft": True}])
def test_every_format_holds_what_encode_returns(tiny_encoder, images, tmp_path, small_shards, name, options):
    expected = tiny_encoder.encode(images, batch_size=5, **options)
    done = tiny_encoder.encode(images, batch_size=5, out=tmp_path / name, **options)
    assert (done.rows, done.failed, done.before) == (12, 0, 0) and str(done) == f"{tmp_path / name}: 12 images encoded"
    found = Features.load(tmp_path / name)
    assert found.names == expected.names and found.header == expected.header
    assert np.abs(found.array - expected.array).max() < 1e-5
    left = {path.name for path in tmp_path.iterdir()} - {"images"}
    assert left == ({name, "x.npy.json"} if name == "x.npy" else {name})


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_stored(tiny_encoder, images, tmp_path, name):
    tiny_encoder.encode(images, out=tmp_path / name, storage_dtype="float16")
    expected, found = tiny_encoder.encode(images).array, content(tmp_path / name)[1]
    assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_one_image(tiny_encoder, images, tmp_path, name):
    tiny_encoder.encode(images / "00.png", out=tmp_path / name)
    assert content(tmp_path / name)[1].shape == ((1, 32) if name == "x.parquet" else (32,))


class Stop(Exception):
    pass


def stopping(after):
    """Images of which reading fails once so many are read: an error that nothing skips."""

    def generate():
        for i in range(12):
            if i == after:
                raise Stop
            yield make_image(i)

    return generate()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [0, 1, 4, 7, 11])
def test_a_stopped_run_goes_on(tiny_encoder, tmp_path, small_shards, name, after):
    expected = tiny_encoder.encode(make_image(i) for i in range(12))
    with pytest.raises(Stop):
        tiny_encoder.encode(stopping(after), batch_size=1, out=tmp_path / name)
    if after > 6:
        with pytest.raises((InputError, FileNotFoundError)):
            Features.load(tmp_path / name)
    done = tiny_encoder.encode(stopping(99), batch_size=4, out=tmp_path / name)
    assert done.rows == 12 and done.before == after
    names, array = content(tmp_path / name)
    assert names == list(expected.names) and np.abs(array - expected.array).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_output_is_not_made_again(tiny_encoder, images, tmp_path, name, monkeypatch):
    tiny_encoder.encode(images, out=tmp_path / name)
    monkeypatch.setattr(run, "_fill", lambda *_: pytest.fail("encoded again"))
    done = tiny_encoder.encode(images, out=tmp_path / name, batch_size=3)
    assert (done.rows, done.before) == (12, 12)


def changed(folder):
    make_image(99).save(folder / "03.png")


def added(folder):
    make_image(99).save(folder / "99.png")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change, options, words",
    [
        (None, {"flip_average": True}, "other averaging over flips"),
        (None, {"dtype": "bfloat16"}, "other dtype"),
        (None, {"storage_dtype": "float16"}, "other dtype that is stored"),
        (None, {"draft": True}, "other draft"),
        (changed, {}, "other images, or their content"),
        (added, {}, "other images, or their content"),
    ],
)
def test_another_request_is_refused(
    tiny_encoder, images, tmp_path, name, finished, change, options, words, small_shards
):
    path = tmp_path / name
    if finished:
        tiny_encoder.encode(images, out=path)
    else:
        broken = images / "07.png"
        good = (broken.read_bytes(), os.stat(broken))
        broken.write_bytes(b"x" * len(good[0]))
        os.utime(broken, ns=(good[1].st_atime_ns, good[1].st_mtime_ns))
        with pytest.raises(ImageDecodeError, match=r"07\.png"):
            tiny_encoder.encode(images, out=path, on_error="raise", batch_size=2)
        broken.write_bytes(good[0])
        os.utime(broken, ns=(good[1].st_atime_ns, good[1].st_mtime_ns))
    if change:
        change(images)
    with pytest.raises(InputError, match=words):
        tiny_encoder.encode(images, out=path, **options)
    assert tiny_encoder.encode(images, out=path, overwrite=True, **options).rows == (13 if change is added else 12)


def test_another_model_is_refused(tiny_encoder, images, tmp_path):
    tiny_encoder.encode(images, out=tmp_path / "x.npz")
    bundled = ditifeat.load_encoder()
    with pytest.raises(InputError, match="other model, weights"):
        bundled.encode(images, out=tmp_path / "x.npz")
    bundled.encode(images, out=tmp_path / "y.npz")
    with pytest.raises(InputError, match="other crop"):
        bundled.encode(images, out=tmp_path / "y.npz", crop="center")


@pytest.mark.parametrize("name", NAMES)
def test_what_encode_did_not_make_is_not_replaced(tiny_encoder, images, tmp_path, name):
    tiny_encoder.encode(images).save(tmp_path / name)
    with pytest.raises(InputError, match="overwrite"):
        tiny_encoder.encode(images, out=tmp_path / name)
    assert tiny_encoder.encode(images, out=tmp_path / name, overwrite=True).rows == 12


def test_a_resumed_run_keeps_the_dtype(tiny_encoder, images, tmp_path, monkeypatch, small_shards):
    bfloat16 = speed.Way(torch.bfloat16, False)
    monkeypatch.setattr(run, "LONG_RUN", 0)
    monkeypatch.setattr(run, "fastest_way", lambda *_: bfloat16)
    path = tmp_path / "x.parquet"
    with pytest.raises(Stop):
        tiny_encoder.encode(stopping(7), batch_size=2, out=path)
    monkeypatch.setattr(run, "fastest_way", lambda *_: pytest.fail("decided again"))
    tiny_encoder.encode(stopping(99), out=path)
    halves = [batch for _, batch in ditifeat.load_encoder(tiny_encoder.folder, dtype="bfloat16").stream(stopping(99))]
    assert np.array_equal(content(path)[1], torch.cat(halves).numpy())


def test_bad_images_are_rows_with_errors(tiny_encoder, images, tmp_path, small_shards, caplog):
    for bad in ("00.png", "05.png", "11.png"):
        (images / bad).write_bytes(b"no image")
    done = tiny_encoder.encode(images, out=tmp_path / "x.parquet", batch_size=4)
    assert (done.rows, done.failed) == (9, 3) and str(done).endswith("9 images encoded; 3 could not be decoded")
    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert [name for name, error in zip(table["name"], table["error"], strict=True) if error] == [
        "00.png",
        "05.png",
        "11.png",
    ]
    assert all("05.png: is not an image" in error for error in table["error"][5:6]) and "05.png" in caplog.text
    assert Features.load(tmp_path / "x.parquet").skipped == ("00.png", "05.png", "11.png")
    tiny_encoder.encode(images, out=tmp_path / "x.npz", on_error="skip")
    assert content(tmp_path / "x.npz")[0] == [f"{i:02d}.png" for i in range(12) if i not in (0, 5, 11)]
    assert Features.load(tmp_path / "x.npz").skipped == ("00.png", "05.png", "11.png")


@pytest.mark.parametrize("name", NAMES)
def test_raising_at_a_bad_image_keeps_what_came_before(tiny_encoder, images, tmp_path, name):
    good = (images / "07.png").read_bytes()
    (images / "07.png").write_bytes(b"no image")
    with pytest.raises(ImageDecodeError, match=r"07\.png"):
        tiny_encoder.encode(images, out=tmp_path / name, on_error="raise", batch_size=5)
    state = next(tmp_path.glob("x*/_encoding.json"))
    assert json.loads(state.read_text())["finished"] is False
    # The image is mended, which changes the images: only then may they be encoded anew.
    (images / "07.png").write_bytes(good)
    with pytest.raises(InputError, match="other images"):
        tiny_encoder.encode(images, out=tmp_path / name)


@pytest.mark.parametrize("name, on_error", [("x.parquet", "skip"), ("x.npz", "record"), ("x.npz", "ignore")])
def test_formats_hold_no_other_errors(tiny_encoder, images, tmp_path, name, on_error):
    with pytest.raises(InputError, match="on_error"):
        tiny_encoder.encode(images, out=tmp_path / name, on_error=on_error)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"storage_dtype": "float16"}, {"overwrite": True}])
def test_arguments_of_out_are_refused_without_it(tiny_encoder, images, options):
    with pytest.raises(InputError, match="belong to out"):
        tiny_encoder.encode(images, **options)


@pytest.mark.parametrize("name", ["x.csv", "x", "x.npz.gz", "x.PARQUET.zip"])
def test_other_suffixes_are_refused(tiny_encoder, images, tmp_path, name):
    with pytest.raises(InputError, match=r"saved as \.npz"):
        tiny_encoder.encode(images, out=tmp_path / name)


def test_two_runs_into_one_folder(tiny_encoder, images, tmp_path):
    with exclusive(tmp_path / "x.parquet"), pytest.raises(FolderInUseError, match="is writing to it"):
        tiny_encoder.encode(images, out=tmp_path / "x.parquet")


def test_nothing_encoded_leaves_nothing(tiny_encoder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in NAMES:
        with pytest.raises(InputError, match="no image was encoded"):
            tiny_encoder.encode(tmp_path / "empty", out=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_output_may_be_among_the_images(tiny_encoder, images):
    for name in NAMES:
        assert tiny_encoder.encode(images, out=images / name).rows == 12
        assert tiny_encoder.encode(images, out=images / name).before == 12
        for path in (images / name, images / (name + ".json")):
            if path.is_file():
                path.unlink()


def test_fingerprints(images):
    first = fingerprint(images)
    assert first == fingerprint(str(images)) == fingerprint([images]) and first != fingerprint([images, images])
    assert fingerprint(images / "00.png") != fingerprint(images / "01.png")
    changed(images)
    assert fingerprint(images) != first
    assert fingerprint(make_image()) is None and fingerprint([make_image(), "x.png"]) is None
    assert fingerprint(iter([])) is None


def kill_and_finish(command, path, kills, rng, deadline):
    """Kill a command at random moments, then let it finish; return how many were killed while they ran."""
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(*deadline))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.parquet", "x.npz"])
def test_killed_runs_lose_and_repeat_nothing(tiny_encoder, tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(600):
        make_image(i).save(folder / f"{i:03d}.png")
    program = (
        "import sys, ditifeat; from ditifeat.encoding import output; output.SHARD_ROWS = 50;"
        "ditifeat.load_encoder(sys.argv[1]).encode(sys.argv[2], out=sys.argv[3], batch_size=8)"
    )
    command = [sys.executable, "-c", program, str(tiny_encoder.folder), str(folder), str(tmp_path / name)]
    begun = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / ("other" + Path(name).suffix))], check=True, capture_output=True)
    seconds = time.monotonic() - begun
    kill_and_finish(command, tmp_path / name, 4, np.random.default_rng(0), (0.5 * seconds, seconds))
    expected = tiny_encoder.encode(folder)
    names, array = content(tmp_path / name)
    assert names == list(expected.names) and np.abs(array - expected.array).max() < 1e-5
