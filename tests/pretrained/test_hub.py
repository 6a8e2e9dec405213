"""Loading by every kind of name. The Hub is a small server here, so that the real client runs."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ditifeat
from ditifeat import ModelError
from ditifeat.pretrained.dm import resolve_dm
from ditifeat.pretrained.names import BUNDLED, resolve
from ditifeat.pretrained.push import push

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """`/ORG/NAME/resolve/REVISION/FILE`, as the client asks for it."""

    folder: Path
    asked: list[str]

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        repo, revision, file = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "", "/".join(parts[4:])
        self.asked.append(file)
        path = self.folder / file
        if repo not in ("org/model", "org/dm"):
            self._missing("RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._missing("RevisionNotFound")
        elif not file or not path.is_file() or (repo == "org/dm" and "/" in file):
            self._missing("EntryNotFound")
        else:
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    do_HEAD = do_GET

    def _missing(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tiny_folder, tmp_path):
    """Runs a program against a Hub that has the tiny model; `hub.asked` is what it asked for."""
    folder = shutil.copytree(tiny_folder, tmp_path / "served")
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(program, **environment):
        handler.asked.clear()
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            [sys.executable, "-c", f"import ditifeat\n{program}"],
            capture_output=True, text=True, env={**os.environ, **variables, **environment}, timeout=120,
        )  # fmt: skip
        return done.stdout.strip(), done.stderr

    run.asked, run.folder = handler.asked, folder
    yield run
    server.shutdown()


ENCODE = "e = ditifeat.load_encoder({name!r}); print(e.partition.d)"


def test_encode_asks_for_two_files_and_edit_for_the_rest(hub):
    out, err = hub(ENCODE.format(name="org/model"))
    assert out == "32", err
    assert set(hub.asked) == {"config.json", "model.safetensors"}
    out, err = hub(ENCODE.format(name="org/model@v1") + "; print(sum(1 for _ in e.model.parameters()) > 0)")
    assert out == "32\nTrue", err
    assert set(hub.asked) >= {"estimator.safetensors", "dm/unet/config.json", "dm/scheduler/scheduler_config.json"}
    assert not {f for f in hub.asked if f.startswith(("README", "api"))}


def test_offline_once_cached(hub):
    assert hub(ENCODE.format(name="org/model") + "; e.model")[0] == "32"
    out, err = hub(ENCODE.format(name="org/model") + "; print(e.model.partition.k)", HF_HUB_OFFLINE="1")
    assert out == "32\n8", err
    assert hub.asked == []


def test_a_dm_of_somebody_else_at_its_commit(hub):
    """The artefact refers to org/dm, whose files lie flat, and holds no DM itself."""
    own = shutil.copytree(hub.folder, hub.folder.parent / "own", ignore=shutil.ignore_patterns("dm"))
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "dm": {"repo": "org/dm", "commit": COMMIT}}))
    for file in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        shutil.copy(hub.folder / "dm" / file, hub.folder / Path(file).name)
    name = str(own)
    out, err = hub(ENCODE.format(name=name))
    assert (out, hub.asked) == ("32", []), err
    out, err = hub(ENCODE.format(name=name) + "; print(e.model.partition.k)")
    assert out == "32\n8", err
    assert set(hub.asked) == {
        "unet/config.json", "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name,words",
    [
        ("org/nothing", "no such repository"),
        ("org/model@v9", "no such revision"),
        ("org/dm", "no such file"),
    ],
)
def test_what_the_hub_has_not(hub, name, words):
    if name == "org/dm":
        (hub.folder / "config.json").unlink()
    program = f"try: ditifeat.load_encoder({name!r})\nexcept ditifeat.ModelError as error: print(error)"
    out, err = hub(program)
    assert words in out, err


def test_no_connection(hub):
    # The client waits longer and longer between its tries; here it does not.
    program = "import time; time.sleep = lambda seconds: None\n"
    program += "try: ditifeat.load_encoder('org/model')\nexcept ditifeat.ModelError as error: print(error)"
    out, err = hub(program, HF_ENDPOINT="http://127.0.0.1:9")
    assert "org/model@main/config.json" in out and "connect once, or pass a folder" in out, err


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


@pytest.mark.parametrize(
    "name", ["nothing", "./nothing", "a/b/c", "org/model@", "@x", "", "org/name@a b", Path("org/x")]
)
def test_names_that_mean_nothing(name):
    with pytest.raises(ModelError, match="neither a folder, a bundled model"):
        resolve(name)


def test_a_folder_named_like_a_bundled_model_is_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUNDLED[0]).mkdir()
    with pytest.raises(ModelError, match=rf"write './{BUNDLED[0]}'"):
        resolve(BUNDLED[0])
    assert resolve(f"./{BUNDLED[0]}")[0] == Path(BUNDLED[0])
    assert resolve(None)[0].name == BUNDLED[0]


def test_dm_names(tiny_folder):
    folder, reference = resolve_dm(str(tiny_folder / "dm"))
    assert folder == tiny_folder / "dm" and reference.repo is None
    with pytest.raises(ModelError, match="neither a diffusers folder"):
        resolve_dm("nothing")


def test_what_does_not_load_is_not_pushed(tiny_folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo, **_: calls.append(("create", repo)))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda self, **kw: calls.append(("upload", kw["repo_id"])) or "https://commit",
    )
    assert push(tiny_folder, "me/model") == "https://commit"
    assert calls == [("create", "me/model"), ("upload", "me/model")]
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "estimator.safetensors").unlink()
    with pytest.raises(ModelError, match="estimator"):
        push(broken, "me/model")
    assert len(calls) == 2


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


def test_attributes_are_fetched_when_asked_for(hub):
    out, error = hub("print(ditifeat.load_encoder('org/model').attributes())")
    assert out == "None", error
    assert hub.asked[-1] == "attributes.safetensors"
    bundled = ditifeat.load_encoder().folder / "attributes-sparse.safetensors"
    shutil.copy(bundled, hub.folder)
    out, error = hub("print(len(list(ditifeat.load_encoder('org/model').attributes(sparse=True))))")
    assert out == "40", error
