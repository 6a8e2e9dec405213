"""Names -> model folders: bundled, local, on the Hub; exactly the files that are needed."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ditifeat
from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.pretrained.hub import HubOptions
from ditifeat.pretrained.names import BUNDLED, bundled_folder, resolve
from tests.fake_hub import COMMIT


def test_an_encoder_is_two_files(hub):
    folder, source = resolve("org/model", hub.options)
    assert hub.asked == [
        "config.json",
        "config.json",
        "model.safetensors",
    ]  # HEAD and GET; HEAD, and the rest elsewhere
    assert [file for file, _, _ in hub.transfers] == ["model.safetensors"]
    assert (source.repo, source.commit, source.options) == ("org/model", COMMIT, hub.options)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    hub.asked.clear()
    assert resolve("org/model", hub.options)[0] == folder and hub.asked == ["config.json"]  # which commit it is now
    assert resolve(f"org/model@{COMMIT}", hub.options)[0] == folder and len(hub.asked) == 1
    assert resolve("org/model@v1", hub.options) == resolve("org/model", hub.options) and len(hub.transfers) == 1
    assert resolve("org/model", replace(hub.options, revision="v1"))[0] == folder


def test_all_files_are_of_one_commit(hub):
    """The branch moves on between the first file and the second."""
    newer = shutil.copytree(hub.folder(), hub.folder().parent / "newer")
    hub.repos["org/model"] = {COMMIT: hub.folder(), "f" * 40: newer}
    (newer / "model.safetensors").write_bytes(b"newer")

    class Moving(dict):
        def __getitem__(self, key):
            value = dict.__getitem__(self, key)
            if key == "main":
                self["main"] = "f" * 40
            return value

    hub.revisions = Moving(hub.revisions)
    resolve("org/model", hub.options)  # the first request of "main" tells the commit
    folder, _ = resolve("org/model", hub.options)
    assert folder.name == "f" * 40 and (folder / "model.safetensors").read_bytes() == b"newer"


def test_a_repository_that_is_no_model(hub):
    (hub.folder() / "config.json").unlink()
    with pytest.raises(ModelError, match="no such file, so it is not a ditifeat model"):
        resolve("org/model", hub.options)


def test_offline_once_cached(hub, offline):
    folder, _ = resolve("org/model", hub.options)
    hub.asked.clear()
    offline()
    assert resolve("org/model", hub.options)[0] == folder and not hub.asked


@pytest.mark.parametrize(
    "name", ["nothing", "./nothing", "a/b/c", "org/model@", "@x", "", "org/name@a b", Path("org/x")]
)
def test_names_that_mean_nothing(name):
    with pytest.raises(MissingFileError, match="neither a folder, a bundled model") as error:
        resolve(name)
    assert isinstance(error.value, ModelError) and isinstance(error.value, FileNotFoundError)


def test_a_file_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(ModelError, match=r"model/config\.json: is a file"):
        resolve("model/config.json")


def test_a_folder_named_like_a_bundled_model_is_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUNDLED[0]).mkdir()
    with pytest.raises(ModelError, match=rf"write './{BUNDLED[0]}'"):
        resolve(BUNDLED[0])
    assert resolve(f"./{BUNDLED[0]}")[0] == Path(BUNDLED[0])
    assert resolve(None)[0].name == BUNDLED[0]


def test_folders(tiny_folder, monkeypatch):
    assert resolve(tiny_folder) == resolve(str(tiny_folder)) == (tiny_folder, None)
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert resolve(f"~/{tiny_folder.name}")[0] == tiny_folder
    for name in (tiny_folder, None, BUNDLED[0]):
        with pytest.raises(InputError, match="revision = 'v1' belongs to org/name on the Hub"):
            resolve(name, HubOptions(revision="v1"))


def test_an_installation_without_weights():
    with pytest.raises(MissingFileError, match="install ditifeat again"):
        bundled_folder("none")


@pytest.mark.slow
def test_local_names_need_no_sockets(tiny_folder, photos):
    program = f"""
import socket
def refuse(*_, **__): raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
for name in ({str(tiny_folder)!r}, None):
    encoder = ditifeat.load_encoder(name)
    print(ditifeat.encode(encoder, {str(photos)!r}).shape[0])
    print(type(ditifeat.edit(encoder, {str(photos / "00.png")!r}, reference={str(photos / "01.png")!r}, steps=2)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", f"import ditifeat\n{program}"], capture_output=True, text=True)
    assert done.stdout.split() == ["10", "Image"] * 2, done.stderr


def test_import_is_lazy():
    program = """
import sys, ditifeat
heavy = {"torch", "diffusers", "sklearn", "PIL", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
ditifeat.load_encoder, ditifeat.encode, ditifeat.probe, ditifeat.edit
assert not {"diffusers", "sklearn", "accelerate", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert ditifeat.__version__
    with pytest.raises(AttributeError, match="nothing"):
        ditifeat.nothing  # noqa: B018


def test_encoding_needs_no_diffusers(photos):
    program = f"""
import sys
print(ditifeat.encode(ditifeat.load_encoder(), {str(photos)!r}, crop="center").shape)
print(sorted({{"diffusers", "accelerate", "matplotlib", "huggingface_hub"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", f"import ditifeat\n{program}"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(10, 512)", "[]"], done.stdout + done.stderr
