"""The Hub is a small server on the loopback, so that the real client runs."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ditifeat.pretrained.hub import HubOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"

NEWER = "f" * 40


@dataclass
class FakeHub:
    """`/ORG/NAME/resolve/REVISION/FILE`, as the client asks for it.

    Attributes:
        repos: the folder of each repository, or of each of its commits.
        revisions: branches and tags of every repository.
        private: repositories that need the token "secret".
        gated: repositories whose terms were not accepted.
        broken: files whose transfer breaks in the middle.
        asked: the files asked for.
        address: set once it runs; `cache` is the client's folder.
    """

    cache: Path
    repos: dict = field(default_factory=dict)
    revisions: dict = field(default_factory=lambda: {"main": COMMIT, "v1": COMMIT, COMMIT: COMMIT, NEWER: NEWER})
    private: set = field(default_factory=set)
    gated: set = field(default_factory=set)
    broken: set = field(default_factory=set)
    asked: list = field(default_factory=list)
    address: str = ""

    @property
    def options(self):
        return HubOptions(cache_dir=self.cache / "hub")

    def folder(self, repo="org/model", commit=COMMIT):
        found = self.repos[repo]
        return found[commit] if isinstance(found, dict) else found

    def run(self, program, **environment):
        """Runs a program in a process of its own, whose environment names this Hub."""
        self.asked.clear()
        variables = {"HF_ENDPOINT": self.address, "HF_HOME": str(self.cache)}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            [sys.executable, "-c", f"import ditifeat\n{program}"],
            capture_output=True, text=True, env={**os.environ, **variables, **environment}, timeout=120,
        )  # fmt: skip
        return done.stdout.strip(), done.stderr


class Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        repo, revision, file = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "", "/".join(parts[4:])
        hub = self.hub
        hub.asked.append(file or self.path)
        known = self.headers.get("Authorization") == "Bearer secret"
        if repo not in hub.repos or (repo in hub.private and not known):
            self._refuse(401 if repo in hub.private else 404, "RepoNotFound")
        elif repo in hub.gated:
            self._refuse(403, "GatedRepo")
        elif revision not in hub.revisions:
            self._refuse(404, "RevisionNotFound")
        elif not (path := hub.folder(repo, hub.revisions[revision]) / file).is_file():
            self._refuse(404, "EntryNotFound", hub.revisions[revision])
        else:
            self._send(path.read_bytes(), hub.revisions[revision], file in hub.broken)

    do_HEAD = do_GET

    def _send(self, data, commit, broken):
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if broken else data)
            self.close_connection = broken

    def _refuse(self, status, code, commit=None):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A Hub whose org/model is the tiny model; the client of this process asks it, too."""
    from huggingface_hub import constants

    fake = FakeHub(tmp_path / "cache", {"org/model": shutil.copytree(tiny_folder, tmp_path / "served")})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHandler", (Handler,), {"hub": fake}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", fake.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "cache" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch):
    """Call it, and the client's processes connect no more."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
