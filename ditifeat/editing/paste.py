"""Edited faces put back into the photos that they were cut out of."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ditifeat.align import AlignedFace, Aligner
from ditifeat.align.geometry import add_patch
from ditifeat.data.batches import load_images
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.data.sources import sources
from ditifeat.editing.arguments import EditOptions
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import FaceError, InputError


def paste(
    photo: Image.Image, face: AlignedFace, before: Tensor, after: Tensor, image: Preprocessing, crop: Crop = "model"
) -> Image.Image:
    """Add to a photo what an edit changed of its face; feathered over an eighth of the crop at its edges.

    Args:
        photo: RGB.
        face: of this photo, as the aligner cut it out.
        before, after: `(3, S, S)` in [-1, 1]: what the model saw, and what the edit made of it.
        image, crop: how the aligned face was cropped.

    >>> from PIL import Image
    >>> from ditifeat.align import Aligner
    >>> from ditifeat.editing.paste import paste
    >>> photo = Image.open("me.png").resize((256, 256))
    >>> same = torch.zeros(3, 64, 64)
    >>> paste(photo, Aligner().cut(photo), same, same, encoder.config.image) == photo
    True
    """
    left, top, right, _ = image.box(*face.image.size, crop)
    scale = after.shape[-1] / (right - left)
    to_patch = face.similarity.then(scale, -scale * complex(left, top))
    return add_patch(photo, (after - before) * 127.5, to_patch)


class Pasted:
    """The photos of an edit, each with its face.

    Attributes:
        decoded: uint8 `(B, S, S, 3)` per batch: what the model sees of them.

    Raises:
        ImageDecodeError, InputError: for an image that cannot be decoded or aligned, and for none.
    """

    def __init__(self, encoder: Encoder, images: Any, how: EditOptions, aligner: Aligner):
        self.image, self.crop = encoder.config.image, how.crop
        self.photos: list[Image.Image] = []
        self.faces: list[AlignedFace] = []
        for name, read in sources(images):
            photo = read()
            try:
                self.faces.append(aligner.cut(photo))
            except FaceError as error:
                raise FaceError(f"{name}: {error}") from None
            self.photos.append(photo)
        if not self.photos:
            raise InputError("there is no photo to paste edited faces into")
        rows = [self.image.apply(face.image, self.crop) for face in self.faces]
        self.decoded = [np.stack(rows[i : i + how.batch_size]) for i in range(0, len(rows), how.batch_size)]

    def __call__(self, edited: Tensor) -> list[Any]:
        """Photos with their edited faces `(n, 3, S, S)`; lists of them of several scales `(n, scales, 3, S, S)`."""
        before = load_images(np.concatenate(self.decoded), edited.device)

        def pasted(i: int, after: Tensor) -> Image.Image:
            return paste(self.photos[i], self.faces[i], before[i], after, self.image, self.crop)

        return [
            pasted(i, images) if images.ndim == 3 else [pasted(i, image) for image in images]
            for i, images in enumerate(edited)
        ]
