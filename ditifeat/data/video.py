"""Videos: their frames, one after another, by PyAV where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ditifeat.data.decode import Reduction, to_rgb
from ditifeat.data.readers import Source
from ditifeat.errors import InputError, MissingInputError, require

TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Frame:
    """Converts a frame of a video to an upright RGB image."""

    frame: Any

    @property
    def held(self) -> int:
        """Bytes in memory, of one plane and of two of half its width."""
        return 2 * self.frame.width * self.frame.height

    def __call__(self, reduction: Reduction | None = None) -> Image.Image:
        image: Image.Image = self.frame.to_image()
        turn = TURNS.get(round(self.frame.rotation) % 360)
        return to_rgb(image if turn is None else image.transpose(turn))


def read_video(path: str) -> Iterator[Source]:
    """Name the frames of a video, as `clip.mp4#000012`, with what converts each to an image.

    Raises:
        InputError: if it cannot be read, or where it is damaged.
        MissingDependencyError: without PyAV.
    """
    av = require("av", "video")
    try:
        with av.open(path) as container:
            stream = _stream(container, path)
            for number, frame in enumerate(container.decode(stream)):
                yield f"{path}#{number:06d}", Frame(frame)
    except av.error.FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a video ({error})") from error


def count_frames(path: str) -> int | None:
    """Count the frames of a video, as its header has it; None where that is silent.

    Raises:
        InputError: if it cannot be read.
        MissingDependencyError: without PyAV.
    """
    av = require("av", "video")
    try:
        with av.open(path) as container:
            return _stream(container, path).frames or None
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a video ({error})") from error


def _stream(container: Any, path: str) -> Any:
    if not container.streams.video:
        raise InputError(f"{os.fspath(path)}: holds no video, but {len(container.streams)} other streams")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream
