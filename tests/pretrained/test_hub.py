"""Files of the Hub: what is asked for, what the cache knows, and errors that say the fix."""

import logging
import os
from dataclasses import replace

import pytest

from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.pretrained.hub import NoSuchEntryError, NotCachedError, download, download_optional, parse_hub_name
from tests.pretrained.conftest import COMMIT, NEWER


def test_one_file_is_one_request(hub):
    path = download("org/model", None, "config.json", hub.options)
    assert path.read_bytes() == (hub.folder() / "config.json").read_bytes()
    assert set(hub.asked) == {"config.json"} and path.parent.name == COMMIT
    assert path.is_relative_to(hub.cache)
    hub.asked.clear()
    assert download("org/model", COMMIT, "config.json", hub.options) == path
    assert not hub.asked  # a commit's files never change


@pytest.mark.parametrize(
    "repo,revision,file,kind,words",
    [
        ("org/nothing", None, "config.json", MissingFileError, "no such repository.*log in"),
        ("org/private", None, "config.json", MissingFileError, "it is private.*pass token"),
        ("org/gated", None, "config.json", ModelError, "access must be asked for"),
        ("org/model", "v9", "config.json", MissingFileError, "no such revision"),
        ("org/model", None, "none.json", NoSuchEntryError, "no such file"),
        ("org/a--b", None, "config.json", InputError, "no name that the Hub can have"),
    ],
)
def test_what_the_hub_has_not(hub, repo, revision, file, kind, words):
    hub.repos |= {"org/private": hub.folder(), "org/gated": hub.folder()}
    hub.private.add("org/private")
    hub.gated.add("org/gated")
    with pytest.raises(kind, match=words) as error:
        download(repo, revision, file, hub.options)
    assert str(error.value).startswith(f"{repo}@{revision or 'main'}/{file}: ")
    assert isinstance(error.value, ValueError)


def test_a_cache_in_the_home_folder(hub, monkeypatch):
    monkeypatch.setenv("HOME", str(hub.cache))
    home = replace(hub.options, cache_dir="~/mine")
    assert download("org/model", None, "config.json", home).is_relative_to(hub.cache / "mine")
    assert download_optional("org/model", COMMIT, "config.json", home).is_relative_to(hub.cache / "mine")


def test_tokens(hub):
    hub.private.add("org/model")
    assert download("org/model", None, "config.json", replace(hub.options, token="secret")).exists()
    assert "secret" not in repr(replace(hub.options, token="secret"))


def test_without_a_connection(hub, offline):
    download("org/model", None, "config.json", hub.options)
    hub.asked.clear()
    alone = replace(hub.options, local_files_only=True)
    assert download("org/model", None, "config.json", alone).exists()
    with pytest.raises(NotCachedError, match=r"estimator\.safetensors: is not in the cache, and local_files_only"):
        download("org/model", None, "estimator.safetensors", alone)
    offline()
    assert download("org/model", None, "config.json", hub.options).exists()
    with pytest.raises(NotCachedError, match=r"HF_HUB_OFFLINE forbids.*connect once, or pass a folder") as error:
        download("org/model", None, "estimator.safetensors", hub.options)
    assert isinstance(error.value, FileNotFoundError) and not hub.asked


def test_a_hub_that_does_not_answer(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer and longer between its tries
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(NotCachedError, match="the Hub cannot be reached; connect once"):
        download("org/model", None, "config.json", hub.options)


def test_a_transfer_that_breaks(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.broken.add("model.safetensors")
    with pytest.raises(ModelError, match=r"org/model@main/model\.safetensors: "):
        download("org/model", None, "model.safetensors", hub.options)
    hub.broken.clear()
    path = download("org/model", None, "model.safetensors", hub.options)
    assert path.read_bytes() == (hub.folder() / "model.safetensors").read_bytes()


def test_files_that_a_model_may_lack(hub, offline, caplog):
    assert download_optional("org/model", COMMIT, "attributes.safetensors", hub.options) is None
    assert download_optional("org/model", COMMIT, "config.json", hub.options).exists()
    offline()
    hub.asked.clear()
    with caplog.at_level(logging.WARNING):
        assert download_optional("org/model", COMMIT, "attributes.safetensors", hub.options) is None
        assert download_optional("org/model", COMMIT, "config.json", hub.options).exists()
        assert not caplog.text  # both are known
        assert download_optional("org/model", COMMIT, "other.safetensors", hub.options) is None
        assert "other.safetensors: is not in the cache" in caplog.text and "taken to have none" in caplog.text
    assert not hub.asked


READ_ONLY = """
import ctypes, logging, os, sys
from pathlib import Path
from ditifeat.pretrained.names import resolve
logging.basicConfig(stream=sys.stdout, format="%(message)s")
cache = Path(os.environ["HF_HOME"])
for path in [cache, *cache.rglob("*")]:
    if not path.is_symlink():
        path.chmod(0o555 if path.is_dir() else 0o444)
if os.geteuid() == 0:  # root writes everywhere, unless it gives its capabilities up
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
try:
    (cache / "x").touch()
    print("writable after all")
except PermissionError:
    folder, source = resolve("org/model")
    print(source.commit, (folder / "model.safetensors").exists())
"""


def test_a_read_only_cache_serves_the_commit_that_it_holds(hub):
    from ditifeat.pretrained.names import resolve

    hub.repos["org/model"] = {COMMIT: hub.folder(), NEWER: hub.folder()}
    resolve("org/model", hub.options)
    (hub.folder(commit=NEWER) / "config.json").write_text("newer")
    hub.revisions["main"] = NEWER
    out, error = hub.run(READ_ONLY)
    os.system(f"chmod -R u+w '{hub.cache}'")
    assert out.endswith(f"{COMMIT} True"), out + error
    assert "cannot be written to the cache" in out and f"the commit in the cache is taken, {COMMIT}" in out
    assert resolve("org/model@" + COMMIT, hub.options)[1].commit == COMMIT


def test_a_cache_that_cannot_be_written_and_holds_nothing(hub):
    blocked = replace(hub.options, cache_dir="/proc/none")
    with pytest.raises(ModelError, match=r"config\.json: cannot be written to the cache .*pass cache_dir"):
        download("org/model", None, "config.json", blocked)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "org/model@", "@x", "", "org/name@a b", "/org/x", "org/../x", "org/x\n"]
)
def test_names_that_the_hub_cannot_have(hub, name):
    with pytest.raises(MissingFileError, match="is neither a folder nor org/name on the Hub"):
        parse_hub_name(name, "a folder", hub.options)


def test_revisions_of_names(hub):
    assert parse_hub_name("org/name", "a folder", hub.options) == ("org/name", None)
    assert parse_hub_name("org/name@refs/pr/1", "a folder", hub.options) == ("org/name", "refs/pr/1")
    v1 = replace(hub.options, revision="v1")
    assert parse_hub_name("org/name", "a folder", v1) == ("org/name", "v1")
    with pytest.raises(InputError, match="revision = 'v1' another; give one of them"):
        parse_hub_name("org/name@v2", "a folder", v1)
