"""Files of the Hub: what is asked for, what the cache knows, and errors that say the fix."""

import errno
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest

from ditifeat import InputError, ModelError
from ditifeat.errors import MissingFileError
from ditifeat.files import sha256
from ditifeat.pretrained.hub import NoSuchEntryError, NotCachedError, download, download_optional, parse_hub_name
from tests.fake_hub import COMMIT, NEWER, TOKEN


def test_one_file_is_one_request(hub):
    path = download("org/model", None, "config.json", hub.options)
    assert path.read_bytes() == (hub.folder() / "config.json").read_bytes()
    assert hub.asked == ["config.json"] * 2 and path.parent.name == COMMIT  # HEAD and GET
    assert path.is_relative_to(hub.cache)
    hub.asked.clear()
    assert download("org/model", COMMIT, "config.json", hub.options) == path
    assert not hub.asked  # a commit's files never change
    assert download("org/model", None, "config.json", hub.options) == path
    assert hub.asked == ["config.json"]  # a branch may have moved


def test_a_large_file_comes_from_elsewhere(hub):
    hub.private.add("org/model")
    path = download("org/model", None, "model.safetensors", replace(hub.options, token=TOKEN))
    assert path.read_bytes() == (hub.folder() / "model.safetensors").read_bytes()
    assert hub.asked == ["model.safetensors"]
    assert hub.transfers == [("model.safetensors", None, False)]  # in one piece, and the token stays at the Hub


@pytest.mark.parametrize(
    "repo,revision,file,kind,words",
    [
        ("org/nothing", None, "config.json", MissingFileError, "no such repository.*log in"),
        ("org/private", None, "config.json", MissingFileError, "it is private.*pass token"),
        ("org/model", "v9", "config.json", MissingFileError, "no such revision"),
        ("org/model", None, "none.json", NoSuchEntryError, "no such file"),
        ("org/a--b", None, "config.json", InputError, "no name that the Hub can have"),
    ],
)
def test_what_the_hub_has_not(hub, repo, revision, file, kind, words):
    hub.repos["org/private"] = hub.folder()
    hub.private.add("org/private")
    with pytest.raises(kind, match=words) as error:
        download(repo, revision, file, hub.options)
    assert str(error.value).startswith(f"{repo}@{revision or 'main'}/{file}: ")
    assert isinstance(error.value, ValueError)


def test_a_cache_in_the_home_folder(hub, monkeypatch):
    monkeypatch.setenv("HOME", str(hub.cache))
    home = replace(hub.options, cache_dir="~/mine")
    assert download("org/model", None, "config.json", home).is_relative_to(hub.cache / "mine")
    assert download_optional("org/model", COMMIT, "config.json", home).is_relative_to(hub.cache / "mine")


@pytest.mark.parametrize(
    "token,words",
    [
        (None, "it is private; log in"),  # 401
        ("another's", "it is private; log in"),  # 404: others are not told that there is one
        ("expired", "does not know the token; log in again"),  # 401
        (TOKEN, None),
    ],
)
def test_private_repositories(hub, token, words):
    hub.private.add("org/model")
    options = replace(hub.options, token=token)
    if words is None:
        assert download("org/model", None, "config.json", options).exists()
    else:
        with pytest.raises(ModelError, match=words):
            download("org/model", None, "config.json", options)
    assert "secret" not in repr(options)


@pytest.mark.parametrize("token", [None, TOKEN])  # 401 and 403
def test_gated_repositories(hub, token):
    hub.gated.add("org/model")
    with pytest.raises(ModelError, match="access must be asked for on the Hub first; then log in"):
        download("org/model", None, "config.json", replace(hub.options, token=token))


def test_a_token_that_is_stored_nowhere(hub):
    with pytest.raises(ModelError, match=r"token = True needs one that is stored; log in"):
        download("org/model", None, "config.json", replace(hub.options, token=True))


@pytest.mark.parametrize(
    "status,kind,words",
    [
        (403, ModelError, "the token may not read it"),
        (200, NotCachedError, r"what answers at http://127\.0\.0\.1:\d+ is no Hub: look at HF_ENDPOINT"),
        (429, ModelError, "asked too often; wait, or log in"),
        (500, NotCachedError, r"is not in the cache, and the Hub is out of order \(500\); try again later"),
        (503, NotCachedError, r"out of order \(503\)"),
    ],
)
def test_a_hub_that_answers_with_a_status(hub, monkeypatch, status, kind, words):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer and longer between its tries
    download("org/model", None, "config.json", hub.options)
    hub.status["org/model"] = status
    assert download("org/model", None, "config.json", hub.options).exists()  # what it has
    with pytest.raises(kind, match=words):
        download("org/model", None, "model.safetensors", hub.options)


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
    with pytest.raises(ModelError, match=r"org/model@main/model\.safetensors: .*try again"):
        download("org/model", None, "model.safetensors", hub.options)
    assert not [path for path in hub.cache.rglob("*.safetensors")]
    hub.broken.clear()
    path = download("org/model", None, "model.safetensors", hub.options)
    assert path.read_bytes() == (hub.folder() / "model.safetensors").read_bytes()


def test_a_transfer_that_is_cut_goes_on_where_it_ended(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what arrived of a chunk that is cut is lost
    hub.cut.add("model.safetensors")
    with suppress(ModelError):  # the client goes on by itself; that of huggingface_hub 1.0 with the next call
        download("org/model", None, "model.safetensors", hub.options)
    path = download("org/model", None, "model.safetensors", hub.options)
    assert path.read_bytes() == (hub.folder() / "model.safetensors").read_bytes()
    (_, first, _), (_, second, _) = hub.transfers
    assert first is None and int(second.removeprefix("bytes=").split("-")[0]) > 100_000


@pytest.mark.parametrize(
    "kind,words", [("wrong", "its sha256 is not [0-9a-f]{64}, which the Hub states"), ("short", "size")]
)
def test_other_bytes_than_the_hub_told(hub, kind, words):
    getattr(hub, kind).add("model.safetensors")
    with pytest.raises(ModelError, match=rf"org/model@main/model\.safetensors: .*{words}.*try again"):
        download("org/model", None, "model.safetensors", hub.options)
    getattr(hub, kind).clear()
    path = download("org/model", None, "model.safetensors", hub.options)  # what was wrong is not kept
    assert path.read_bytes() == (hub.folder() / "model.safetensors").read_bytes()


def test_a_cache_that_decayed(hub, offline):
    path = download("org/model", None, "model.safetensors", hub.options)
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"x")
    offline()
    with pytest.raises(ModelError, match=r"sha256 .*it was removed from the cache; try again"):
        download_optional("org/model", COMMIT, "model.safetensors", hub.options)
    with pytest.raises(NotCachedError):
        download("org/model", COMMIT, "model.safetensors", hub.options)


def test_tags_that_move(hub, tmp_path, offline):
    """A tag is asked for anew each time; a commit and what it holds stay."""
    newer = shutil.copytree(hub.folder(), tmp_path / "newer")
    (newer / "config.json").write_text("{}")
    hub.repos["org/model"] = {COMMIT: hub.folder(), NEWER: newer}
    old = download("org/model", "v1", "config.json", hub.options)
    hub.revisions["v1"] = NEWER
    new = download("org/model", "v1", "config.json", hub.options)
    assert (old.parent.name, new.parent.name) == (COMMIT, NEWER) and new.read_text() == "{}" != old.read_text()
    assert download("org/model", COMMIT, "config.json", hub.options) == old
    offline()
    assert download("org/model", "v1", "config.json", hub.options) == new
    with pytest.raises(NotCachedError):
        download("org/model", "v1", "model.safetensors", hub.options)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_to(hub, monkeypatch, number):
    def write(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as full:
        full.setattr("huggingface_hub.file_download.http_get", write)
        with pytest.raises(ModelError, match=rf"cannot be written to the cache .*{os.strerror(number)}.*free space"):
            download("org/model", None, "model.safetensors", hub.options)
    assert download("org/model", None, "model.safetensors", hub.options).exists()


FULL = """
import os, resource
from ditifeat import ModelError
from ditifeat.pretrained.names import resolve
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # no file grows beyond: an OSError at the write, as of a full disk
try:
    resolve("org/model")
except ModelError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_is_full(hub):
    out, error = hub.run(FULL)
    assert "org/model@" in out and "model.safetensors: cannot be written to the cache" in out, out + error
    assert "free space, or pass cache_dir" in out
    assert not [path for path in hub.cache.rglob("*") if path.is_file() and path.stat().st_size >= 20000]
    assert hub.run("print(ditifeat.load_encoder('org/model').weights)")[0] == sha256(hub.folder() / "model.safetensors")


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
