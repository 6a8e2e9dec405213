"""Videos by frames."""

import sys

import numpy as np
import pytest
from PIL import Image

from ditifeat import InputError
from ditifeat.data.sources import is_single, sources
from ditifeat.data.video import Frame, count_frames
from ditifeat.errors import MissingDependencyError
from tests.data.test_folders import names_of

av = pytest.importorskip("av", reason="PyAV is not installed")

COLOURS = [(220, 30, 40), (30, 200, 60), (40, 50, 210), (200, 200, 40), (128, 128, 128)]


def write_video(path, frames=5, size=(64, 48), codec="mpeg4", pix_fmt="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.bit_rate = 10**7
        for i in range(frames):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, COLOURS[i % 5]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name,codec", [("clip.mp4", "mpeg4"), ("clip.MKV", "mpeg4"), ("clip.avi", "mpeg4")])
def test_frames_in_order(tmp_path, name, codec):
    path = write_video(tmp_path / name.lower(), codec=codec).rename(tmp_path / name)
    found = list(sources(path))
    assert [frame for frame, _ in found] == [f"{path}#{i:06d}" for i in range(5)] and not is_single(path)
    for (_, read), colour in zip(found, COLOURS, strict=True):
        assert read().size == (64, 48)
        assert np.abs(np.asarray(read()).reshape(-1, 3).mean(0) - colour).max() < 8
    assert names_of([path, path])[5] == f"{path}#000000#2"


def test_frames_are_counted(tmp_path):
    assert count_frames(str(write_video(tmp_path / "x.mp4", 7))) == 7
    assert count_frames(str(write_video(tmp_path / "x.mkv", 7))) is None


def test_frames_of_a_phone_are_turned_upright():
    class Turned:
        rotation, width, height = -90, 20, 10

        def to_image(self):
            image = Image.new("RGB", (20, 10))
            image.putpixel((0, 0), (255, 0, 0))
            return image

    image = Frame(Turned())()
    assert image.size == (10, 20) and image.getpixel((9, 0)) == (255, 0, 0)


def test_what_is_no_video_is_refused(tmp_path):
    data = write_video(tmp_path / "x.mp4", 30).read_bytes()
    for damaged in (b"", b"no video", data[: len(data) // 2]):
        (tmp_path / "y.mp4").write_bytes(damaged)
        with pytest.raises(InputError, match=r"y\.mp4: cannot be read as a video"):
            names_of(tmp_path / "y.mp4")
    for images in (tmp_path / "none.mp4", [tmp_path / "none.mp4"]):
        with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
            names_of(images)


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="holds no video"):
        names_of(tmp_path / "x.mkv")


def test_without_pyav(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[video\]'"):
        names_of(path)
