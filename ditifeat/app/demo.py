"""What the page of `ditifeat demo` does, without its layout: choose an image, see what is lost, edit it."""

from __future__ import annotations

import itertools
import tempfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ditifeat.align import Align, model_aligner
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import save_image, sheet, to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.data.sources import is_single
from ditifeat.editing.arguments import checked_direction
from ditifeat.editing.edit import attribute_edit, subset_edit
from ditifeat.editing.lost import lost
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import InputError
from ditifeat.model.diti import DiTi

STEPS = 20

MAX_SLIDERS = 6

DEFAULT_ATTRIBUTES = ("Smiling", "Male", "Young", "Blond_Hair", "Heavy_Makeup", "Pale_Skin")

LOST_TIME_STEPS = (100, 300, 500, 700)

MAX_RESULTS = 100  # that can still be downloaded

DISPLAY_SIZE = 320  # pixels per side on the page


class Cut(NamedTuple):
    """How an image is cut: `crop` and `align` of `encode`."""

    crop: Crop
    align: Align = False


State = dict[str, np.ndarray]  # z (1, d), x_T (1, C, h, w), and reference (1, d) once there is a second image


class Demo:
    """Edits of one image at a time. A `State` belongs to one visitor; everything else is shared by all.

    Args:
        encoder: a DiTi or PDAE model's.

    Attributes:
        samples: files of faces that the bundled DM sampled.
        reports: probes whose attributes can be edited, by the title of their kind; empty for a model without any.
        attributes: their names, sorted.

    Raises:
        InputError, ModelError: for a model without a frozen DM.

    >>> from ditifeat.app.demo import Demo
    >>> demo = Demo(encoder)
    >>> state, image, lost = demo.choose("me.png", "center")
    >>> edited, path = demo.edit(state, "all dimensions", {"Smiling": 1.0}, (0, 0), 0.0)
    >>> edited.size
    (320, 320)
    """

    def __init__(self, encoder: Encoder):
        if not isinstance(encoder.model, DiTi):
            raise InputError(f"{encoder.config.name}: has no frozen DM, so there is nothing to edit with")
        self.encoder = encoder
        self.model = encoder.model
        self.samples = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
        found = {"all dimensions": encoder.attributes(), "16 dimensions": encoder.attributes(sparse=True)}
        self.reports = {title: report for title, report in found.items() if report is not None}
        self.attributes = sorted(next(iter(self.reports.values()), ()))
        self._folder = tempfile.TemporaryDirectory(prefix="ditifeat-")
        self._numbers = itertools.count()

    @property
    def default_attributes(self) -> list[str]:
        """Those whose sliders are shown first."""
        familiar = [name for name in DEFAULT_ATTRIBUTES if name in self.attributes]
        return familiar or self.attributes[:MAX_SLIDERS]

    @torch.no_grad()
    def choose(self, path: str | Path, crop: Crop, align: Align = False) -> tuple[State, Image.Image, Image.Image]:
        """Invert an image.

        Returns:
            Its state, the image as the model sees it, and what is lost of it at four time-steps.

        Raises:
            ImageDecodeError, InputError: for a file that is no image, too small a one, or one without a face to align.
        """
        x_0 = self._read(path, crop, align)
        z = self.encoder(x_0)
        x_T = self.model.invert(x_0, z, STEPS, "fixed_point")
        rows = lost(self.encoder, Path(path), LOST_TIME_STEPS, crop=crop, align=align)
        steps = ", ".join(map(str, LOST_TIME_STEPS))
        lost_sheet = sheet({f"{title}, t = {steps}": row for title, row in rows.items()})
        return {"z": z.cpu().numpy(), "x_T": x_T.cpu().numpy()}, _displayed(to_pixels(x_0)[0]), lost_sheet

    @torch.no_grad()
    def choose_reference(
        self, state: State, path: str | Path, crop: Crop, align: Align = False
    ) -> tuple[State, Image.Image]:
        """Encode a second image: the state with its code, and the image as the model sees it; errors as `choose`."""
        x_0 = self._read(path, crop, align)
        return state | {"reference": self.encoder(x_0).cpu().numpy()}, _displayed(to_pixels(x_0)[0])

    @torch.no_grad()
    def edit(
        self, state: State, kind: str, scales: dict[str, float], time_steps: tuple[int, int], share: float
    ) -> tuple[Image.Image, str]:
        """Edit the chosen image.

        Args:
            state: of `choose`.
            kind: which of `reports` gives the directions.
            scales: by attribute, as `ditifeat.edit`'s.
            time_steps: (lo, hi); the subsets between them move towards the reference's.
            share: how far, 0..1.

        Returns:
            The edited image, and the path of a PNG of the model's own size.

        Raises:
            InputError: for an attribute that could not be probed.
        """
        z, x_T = (torch.from_numpy(state[key]).to(self.encoder.device) for key in ("z", "x_T"))
        partition = self.encoder.partition
        lo, hi = time_steps
        if "reference" in state and share and lo != hi:
            reference = torch.from_numpy(state["reference"]).to(z)
            z = subset_edit(partition, z, reference, partition.subsets_of_time_steps(lo, hi), share)
        for name, scale in scales.items():
            if scale:
                weights, std = checked_direction(self.encoder, self.reports[kind][name])
                z = attribute_edit(z, weights, std, scale)
        pixels = to_pixels(self.model.sample(x_T, z, STEPS, solver="fixed_point"))[0]
        return _displayed(pixels), str(self._save(pixels))

    def _read(self, path: str | Path, crop: Crop, align: Align) -> torch.Tensor:
        if not is_single(path):  # a list of paths would read files of the server
            raise InputError(f"{path}: is not one image")
        image = self.encoder.config.image
        rows = next(batches(Path(path), image, 1, crop, align=model_aligner(align, image, crop)))[1]
        return load_images(rows, self.encoder.device)

    def _save(self, pixels: np.ndarray) -> Path:
        number = next(self._numbers)
        path = Path(self._folder.name) / f"edited-{number}.png"
        save_image(Image.fromarray(pixels), path)
        path.with_name(f"edited-{number - MAX_RESULTS}.png").unlink(missing_ok=True)
        return path


def _displayed(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((DISPLAY_SIZE, DISPLAY_SIZE), Image.Resampling.BICUBIC)
