"""The page, given files that are no plain images, and requests for other files."""

import io
import json
import tarfile
import urllib.error
import urllib.request
import zipfile

import pytest

import ditifeat
from tests.conftest import make_image

pytest.importorskip("gradio")

from ditifeat.app.demo import Demo
from ditifeat.app.page import SAMPLE_CUT, Page
from tests.app.test_page import server  # noqa: F401

CROP = SAMPLE_CUT

MESSAGE = 5  # of what choosing an image gives


@pytest.fixture(scope="module")
def page(tiny_encoder):
    return Page(Demo(tiny_encoder))


def uploads(folder, secret):
    """Files by name, of which none is one image."""
    png = io.BytesIO()
    make_image().save(png, "PNG")
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png.getvalue())
        archive.addfile(info, io.BytesIO(png.getvalue()))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", png.getvalue())
    return {
        "empty.png": b"", "list.txt": str(secret).encode(), "list.lst": str(secret).encode(), "x.tar": tar.getvalue(),
        "empty.tar": bytes(10240), "x.zip": packed.getvalue(), "x.parquet": b"PAR1", "x.mp4": b"\0" * 100,
        "half.png": png.getvalue()[:200],
        "a: b.png": b"no", "<img src=x onerror=alert(1)>.png": b"no", "x.svg": f"<svg><image href='{secret}'/></svg>".encode(),
        "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file", "x.npz": b"PK\3\4",
        "x.pkl": b"cos\nsystem\n(S'mkdir ran'\ntR.",
        "tiny.png": None, "README": b"text", "{1..9}.png": b"no", "*.png": b"no",
    }  # fmt: skip


def test_what_is_no_single_image_is_a_message_without_the_servers_paths(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.png"
    make_image(3).save(secret)
    (tmp_path / "uploads").mkdir()
    for name, data in uploads(tmp_path, secret).items():
        path = tmp_path / "uploads" / name
        if data is None:
            make_image(0, 2, 2).save(path)
        else:
            path.write_bytes(data)
        state = {"z": 0}
        for message in (page._choose(str(path), CROP)[MESSAGE], page._choose_reference(state, str(path), CROP)[2]):
            assert isinstance(message, str) and message.startswith("This cannot be read: "), (name, message)
            assert str(tmp_path) not in message and "Traceback" not in message and len(message) < 500, message
    assert not (tmp_path / "ran").exists()


def test_a_missing_upload_is_a_message(page, tmp_path):
    assert "no such file" in page._choose(str(tmp_path / "gone.png"), CROP)[MESSAGE]


def fetch(port, path, data=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        None if data is None else json.dumps(data).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


@pytest.mark.slow
def test_the_server_gives_no_other_file(server, tmp_path):  # noqa: F811
    _, port, log = server
    secret = tmp_path / "secret.png"
    make_image(3).save(secret)
    folder = ditifeat.__path__[0]
    for path in (
        "/etc/passwd",
        str(secret),
        f"{folder}/errors.py",
        "/proc/self/environ",
        "..%2f..%2fetc/passwd",
        str(log),
    ):
        status, text = fetch(port, f"/gradio_api/file={path}")
        assert status in (403, 404) and "root:" not in text and "class " not in text, (path, status)


@pytest.mark.slow
def test_the_server_reads_no_other_file_and_tells_no_traceback(server, tmp_path):  # noqa: F811
    port = server[1]
    secret = tmp_path / "secret.png"
    make_image(3).save(secret)
    config = json.loads(fetch(port, "/config")[1])
    names = [call["api_name"] for call in config["dependencies"] if call.get("api_name")]
    assert names
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    values = [[file, CROP], [file, "../.."], [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, CROP], [], [None] * 12,
              [{}, "no such kind", ["no such"], -1, 10**9, 2, *[10**9] * 6], ["x" * 10**5] * 12]  # fmt: skip
    for name in names:
        for data in values:
            status, text = fetch(port, f"/gradio_api/call/{name}", {"data": data, "event_data": {"index": -1}})
            if status == 200:
                status, text = fetch(port, f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")
            assert "Traceback" not in text and "site-packages" not in text and str(tmp_path) not in text, (
                name,
                data,
                text[:500],
            )
    assert fetch(port, "/")[0] == 200
