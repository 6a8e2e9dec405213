"""The Hub is a small server of its protocol on the loopback, so that the real client runs."""

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ditifeat.pretrained.hub import HubOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"

NEWER = "f" * 40

TOKEN = "secret"

LARGE = (".safetensors", ".png", ".bin")  # kept outside git, as the Hub's .gitattributes have it


@dataclass
class FakeHub:
    """Downloads (`/ORG/NAME/resolve/REVISION/FILE`, large files on another host) and commits, as the client asks for them.

    Attributes:
        repos: the folder of each repository, or of each of its commits.
        revisions: branches and tags of every repository.
        private: repositories that need the token `TOKEN`.
        gated: repositories whose terms were not accepted.
        status: HTTP status that a repository answers with, whatever is asked of it.
        broken: files whose transfer breaks in the middle; `cut` those where it does so once.
        wrong: files that arrive with other bytes than the Hub says, of the same length; `short` with fewer.
        asked: the files asked for, once each request.
        transfers: path and Range header of each transfer of a large file, and whether the token came along.
        commits: the operations of each commit that was pushed.
        address: set once it runs; `cache` is the client's folder.
    """

    cache: Path
    repos: dict = field(default_factory=dict)
    revisions: dict = field(default_factory=lambda: {"main": COMMIT, "v1": COMMIT, COMMIT: COMMIT, NEWER: NEWER})
    private: set = field(default_factory=set)
    gated: set = field(default_factory=set)
    status: dict = field(default_factory=dict)
    broken: set = field(default_factory=set)
    cut: set = field(default_factory=set)
    wrong: set = field(default_factory=set)
    short: set = field(default_factory=set)
    asked: list = field(default_factory=list)
    transfers: list = field(default_factory=list)
    commits: list = field(default_factory=list)
    objects: dict = field(default_factory=dict)
    address: str = ""

    @property
    def options(self):
        return HubOptions(cache_dir=self.cache / "hub")

    @property
    def elsewhere(self):
        """Where large files lie: another host to the client, which must not send its token there."""
        return self.address.replace("127.0.0.1", "localhost")

    def folder(self, repo="org/model", commit=COMMIT):
        found = self.repos[repo]
        return found[commit] if isinstance(found, dict) else found

    def count(self):
        """How often each file was asked for, in all."""
        return Counter(self.asked)

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
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        if parts[0] == "objects":
            self._transfer(parts[1], "/".join(parts[2:]))
        elif parts[0] == "api":
            repo = "/".join(parts[2:4])
            self._json({"id": repo, "sha": COMMIT}) if repo in self.hub.repos else self._refuse(404, "RepoNotFound")
        else:
            self._resolve("/".join(parts[:2]), parts[3] if len(parts) > 3 else "", "/".join(parts[4:]))

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.path.split("?")[0].strip("/").split("/")
        if self.path == "/api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif not self._knows():
            self._refuse(401, None, message="Invalid credentials in Authorization header")
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif kind[-1] == "batch":
            self._batch(json.loads(body))
        elif "preupload" in kind:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
            self._json({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        else:
            self._commit("/".join(kind[2:4]), [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(data).hexdigest() != self.path.rsplit("/", 1)[1]:
            return self._refuse(400, None, message="another sha256")
        self.hub.objects[hashlib.sha256(data).hexdigest()] = data
        return self._json({})

    def _knows(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _resolve(self, repo, revision, file):
        hub, token = self.hub, self.headers.get("Authorization")
        hub.asked.append(file or self.path)
        if token is not None and not self._knows() and token != "Bearer another's":
            self._refuse(401, None, message="Invalid credentials in Authorization header")
        elif repo not in hub.repos or (repo in hub.private and not self._knows()):
            self._refuse(404 if token or repo not in hub.private else 401, "RepoNotFound")
        elif repo in hub.gated:
            self._refuse(403 if token else 401, "GatedRepo")
        elif repo in hub.status:
            self._refuse(hub.status[repo], None, message="as you were told")
        elif revision not in hub.revisions:
            self._refuse(404, "RevisionNotFound")
        elif not (path := hub.folder(repo, hub.revisions[revision]) / file).is_file():
            self._refuse(404, "EntryNotFound", hub.revisions[revision])
        else:
            self._describe(path.read_bytes(), hub.revisions[revision], file)

    def _describe(self, data, commit, file):
        large = file.endswith(LARGE)
        tag = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)  # git's
        self.send_response(302 if large else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{tag.hexdigest()}"')
        if large:
            self.hub.objects[tag.hexdigest()] = data
            self.send_header("X-Linked-ETag", f'"{tag.hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Location", f"{self.hub.elsewhere}/objects/{tag.hexdigest()}/{file}")
        self.send_header("Content-Length", "0" if large else str(len(data)))
        self.end_headers()
        if self.command == "GET" and not large:
            self.wfile.write(data)

    def _transfer(self, digest, file):
        hub, data = self.hub, self.hub.objects[digest]
        hub.transfers.append((file, self.headers.get("Range"), "Authorization" in self.headers))
        if file in hub.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        if file in hub.short:
            data = data[:-10]
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if file in hub.broken or file in hub.cut:
            hub.cut.discard(file)
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def _create(self, said):
        repo = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
        if repo in self.hub.repos:
            return self._json(
                {"url": f"{self.hub.address}/{repo}", "error": "You already created this model repo"}, 409
            )
        self.hub.repos[repo] = self.hub.cache.parent / "pushed" / repo
        self.hub.repos[repo].mkdir(parents=True)
        if said.get("private") or said.get("visibility") == "private":
            self.hub.private.add(repo)
        return self._json({"url": f"{self.hub.address}/{repo}", "name": repo, "id": repo})

    def _batch(self, said):
        def action(oid):
            return {} if oid in self.hub.objects else {"actions": {"upload": {"href": f"{self.hub.address}/put/{oid}"}}}

        self._json({"transfer": "basic", "objects": [{**each, **action(each["oid"])} for each in said["objects"]]})

    def _commit(self, repo, operations):
        folder = self.hub.folder(repo)
        for each in operations:
            path = folder / each["value"].get("path", "")
            if each["key"] in ("file", "lfsFile"):
                path.parent.mkdir(parents=True, exist_ok=True)
                large = each["key"] == "lfsFile"
                content = (
                    self.hub.objects[each["value"]["oid"]] if large else base64.b64decode(each["value"]["content"])
                )
                path.write_bytes(content)
            elif each["key"] == "deletedFile":
                path.unlink()
        self.hub.commits.append([(each["key"], each["value"].get("path")) for each in operations])
        self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _json(self, said, status=200):
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status, code, commit=None, message=None):
        self.send_response(status)
        for key, value in (("X-Error-Code", code), ("X-Repo-Commit", commit), ("X-Error-Message", message)):
            if value:
                self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def card_errors(content):
    """What the Hub says of a card's metadata, as huggingface.co/docs/hub/model-cards describes it."""
    from huggingface_hub import ModelCard

    data = ModelCard(content, ignore_metadata_errors=False).data.to_dict()
    errors = []
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        errors.append('"license_name" and "license_link" are needed')
    for key in ("license", "license_name", "license_link", "library_name", "pipeline_tag"):
        if key in data and not isinstance(data[key], str):
            errors.append(f'"{key}" must be a string')
    if not all(isinstance(tag, str) for tag in data.get("tags") or []):
        errors.append('"tags" must be strings')
    return [{"message": message} for message in errors]


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
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch):
    """Call it, and the client's processes connect no more."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
