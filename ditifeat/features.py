"""From pictures to features: the loaded `Encoder`, `encode`, and the `Features` that come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ditifeat.artefact import from_dict, read_tensors, write_tensors, write_whole
from ditifeat.encoders import read_encoder, to_images
from ditifeat.errors import InputError
from ditifeat.images import Crop, OnError, batches, is_single
from ditifeat.partition import TimeStepPartition

if TYPE_CHECKING:
    import pandas

    from ditifeat.config import ModelConfig
    from ditifeat.diffae import DiffAE
    from ditifeat.model import DiTi
    from ditifeat.probing import ProbeReport


ATTRIBUTES, SPARSE_ATTRIBUTES = "attributes.safetensors", "attributes-sparse.safetensors"


class Encoder:
    """A pretrained encoder, as `load_encoder` returns it: image -> code, with all that `encode` and `edit` need.

    Attributes:
        config: name, preprocessing, partition and where the frozen DM is.
        folder: the model's.
        partition: time-step -> subset -> dimensions.
        mean, std: of the training pictures' codes, `(d,)` float32.
        device: where it runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: Path,
        device: str,
        load_model: Callable[[], DiTi | DiffAE],
        find_file: Callable[[str], Path | None],
    ):
        self.config = config
        self.folder = folder
        self.partition = config.partition
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device = {device!r} is not a torch device, like cpu or cuda:0") from error
        network, self.mean, self.std = read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
        self.network = network.to(self.device)
        self._load_model = load_model
        self._find_file = find_file

    @cached_property
    def model(self) -> DiTi | DiffAE:
        """The whole model; the estimator and the frozen DM are read, or downloaded, at the first use.

        Raises:
            ModelError: for a contrastive model, which is an encoder alone.
        """
        return self._load_model().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Codes `(B, d)` of images `(B, 3, S, S)` in [-1, 1] that are preprocessed already."""
        return self.network(images.to(self.device))

    def attributes(self, sparse: bool = False) -> ProbeReport | None:
        """The probe of its training's attributes that came with the model, or None.

        Args:
            sparse: the one that may use few dimensions an attribute.
        """
        from ditifeat.probing import ProbeReport

        path = self._find_file(SPARSE_ATTRIBUTES if sparse else ATTRIBUTES)
        return ProbeReport.load(path) if path is not None else None

    def lost_at(self, image: Any, time_steps: Sequence[int] | None = None, **options: Any) -> dict[str, np.ndarray]:
        """What the frozen DM has lost of a picture at each time-step, and what the code gives back: `ditifeat.ladder`."""
        from ditifeat.ladder import LADDER, lost_at

        return lost_at(self, image, LADDER if time_steps is None else time_steps, **options)

    def __repr__(self) -> str:
        p = self.partition
        return f"Encoder({self.config.name!r}, {self.config.image.size} px -> {p.d} numbers in {p.k} subsets, {self.device})"


@dataclass(frozen=True, eq=False)
class Features:
    """Codes with their rows' names and their partition; `numpy.asarray` and scikit-learn take it as an array.

    Attributes:
        array: float32 `(n, d)`; `(d,)` for one picture.
        names: of the rows: paths, relative to the folder where one was given; numbers where there was no name.
        partition: which dimensions belong to which time-steps.
        model: the name of the model that made them.
    """

    array: np.ndarray
    names: tuple[str, ...]
    partition: TimeStepPartition
    model: str = ""

    def __post_init__(self) -> None:
        rows = len(self.array) if self.array.ndim == 2 else 1
        if self.array.shape[-1] != self.partition.d or rows != len(self.names):
            raise InputError(
                f"features of shape {self.array.shape} with {len(self.names)} names and d = {self.partition.d}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __getitem__(self, rows: Any) -> Any:
        """Rows by slice, indices or mask are `Features`; one row, or anything more intricate, is an array."""
        picked = self.array[rows]
        if self.array.ndim == 2 and picked.ndim == 2 and not isinstance(rows, tuple):
            return Features(picked, tuple(np.array(self.names, dtype=object)[rows]), self.partition, self.model)
        return picked

    def __repr__(self) -> str:
        return f"Features({self.array.shape}, {self.partition.k} subsets, model {self.model!r})"

    def time_steps(self, lo: int, hi: int) -> np.ndarray:
        """The columns of the subsets whose first time-step is within `lo..hi-1`: `(n, m)`, a view."""
        return self.array[..., self.partition.time_steps(lo, hi)]

    def subsets(self, lo: int, hi: int) -> np.ndarray:
        """The columns of subsets `lo..hi-1`: `(n, m)`, a view."""
        return self.array[..., self.partition.dims(lo, hi)]

    def nearest(
        self, query: Any, *, time_steps: tuple[int, int] | None = None, count: int = 5
    ) -> list[tuple[str, float]]:
        """The rows nearest to a code, by all of it or by the part that belongs to a range of time-steps.

        Args:
            query: one picture's code, `Features` or array `(d,)`.
            time_steps: `(lo, hi)`, edges of subsets; all by default. Late ones compare what is coarse, early ones what is
                fine.
            count: how many neighbours.

        Returns:
            Names and distances, nearest first: Euclidean, over the root of the columns' summed variance in these features.
            Columns keep their relative sizes, as in `probe`.

        Raises:
            InputError: for a query, time-steps or a count that do not fit.
        """
        from sklearn.neighbors import NearestNeighbors

        code = np.asarray(query, dtype=np.float32)
        if code.shape != (self.partition.d,):
            raise InputError(f"the query has shape {code.shape}; it must be one code of {self.partition.d} numbers")
        if self.array.ndim != 2 or not 1 <= count <= len(self.array):
            raise InputError(f"count = {count} is not within 1..{len(np.atleast_2d(self.array))} rows")
        columns = slice(None) if time_steps is None else self.partition.time_steps(*time_steps)
        rows, code = self.array[:, columns], code[columns]
        size = max(float(rows.var(0).sum()) ** 0.5, 1e-8)
        distances, indices = NearestNeighbors(n_neighbors=count).fit(rows / size).kneighbors(code[None] / size)
        return [(self.names[i], float(distance)) for i, distance in zip(indices[0], distances[0], strict=True)]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame, one row a picture, with columns `s07_d034`: subset 7, dimension 34."""
        import pandas

        columns = [f"s{s:02d}_d{d:03d}" for d, s in enumerate(self.partition.subset_of_dim)]
        return pandas.DataFrame(np.atleast_2d(self.array), index=pandas.Index(self.names, name="name"), columns=columns)

    def save(self, path: str | Path) -> None:
        """Writes `.npz` or `.safetensors`, whole or not at all.

        Raises:
            InputError: for another suffix.
        """
        path = Path(path)
        about = {"model": self.model, "partition": json.dumps(asdict(self.partition)), "names": json.dumps(self.names)}
        if path.suffix == ".npz":
            write_whole(path, lambda partial: _save_npz(partial, self.array, about))
        elif path.suffix == ".safetensors":
            write_tensors(path, {"features": torch.from_numpy(self.array)}, about)
        else:
            raise InputError(f"{path}: features are saved as .npz or .safetensors")

    @staticmethod
    def load(path: str | Path) -> Features:
        """Reads what `save` wrote; nothing in the file can run.

        Raises:
            InputError, ModelError: if it is missing or is no such file.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            tensors, about = read_tensors(path)
            array = tensors.get("features", torch.empty(0)).numpy()
        else:
            array, about = _load_npz(path)
        try:
            partition = from_dict(TimeStepPartition, json.loads(about["partition"]))
            return Features(array, tuple(json.loads(about["names"])), partition, about["model"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: does not hold features ({error})") from error


def _save_npz(path: Path, array: np.ndarray, about: dict[str, str]) -> None:
    with path.open("wb") as file:
        np.savez(file, features=array, about=np.array(json.dumps(about)))


def _load_npz(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return data["features"], json.loads(str(data["about"]))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except Exception as error:  # a damaged zip raises whatever its bytes lead to
        raise InputError(f"{path}: cannot be read as features ({error}); make it again with encode") from error


def stream(
    encoder: Encoder, images: Any, *, batch_size: int = 64, crop: Crop = "model", on_error: OnError = "raise"
) -> Iterator[tuple[list[str], Tensor]]:
    """As `encode`, but yields the names and codes `(B, d)` of each batch, so that memory does not grow."""
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size} must be at least 1")
    if crop not in ("model", "center") or on_error not in ("raise", "skip"):
        raise InputError(f"crop = {crop!r} must be model or center, on_error = {on_error!r} raise or skip")
    for names, rows in batches(images, encoder.config.image, batch_size, crop, on_error):
        yield names, encoder(to_images(torch.from_numpy(rows)))


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    output: Literal["numpy"] = ...,
    progress: bool = ...,
) -> Features: ...
@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    output: Literal["torch"],
    progress: bool = ...,
) -> Tensor: ...
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnError = "raise",
    output: Literal["numpy", "torch"] = "numpy",
    progress: bool = False,
) -> Features | Tensor:
    """Features of pictures, one row each, in their order.

    Rows do not depend on `batch_size` beyond float32 rounding. Decoding and resizing run in threads beside the network.

    Args:
        encoder: from `load_encoder`.
        images: a path of a picture, a folder (recursive, sorted) or a `.tar`; a PIL picture; an array `(H, W, 3)` or
            `(N, H, W, 3)`, uint8 or float in [0, 1]; a tensor `(3, H, W)` or `(N, 3, H, W)`, uint8 or float in [-1, 1];
            or an iterable of any of these.
        batch_size: pictures a pass.
        crop: "model" cuts as the model's pictures were cut (see `encoder.config.image`); "center" takes the largest
            central square, for pictures that are cut already.
        on_error: "raise" stops at a bad picture; "skip" warns and leaves its row out.
        output: "numpy" for `Features`, "torch" for a float32 tensor on the encoder's device.
        progress: show a bar.

    Returns:
        `Features` of shape `(n, d)`, `(d,)` for one picture, `(0, d)` for none.

    Raises:
        ImageDecodeError, InputError: for a bad picture or argument, with its name, the reason and the way out.
    """
    if output not in ("numpy", "torch"):
        raise InputError(f"output = {output!r} is not one of numpy, torch")
    names: list[str] = []
    rows = _Rows(encoder.partition.d)
    for batch_names, codes in _bar(
        stream(encoder, images, batch_size=batch_size, crop=crop, on_error=on_error), progress
    ):
        names += batch_names
        rows.append(codes.float().cpu().numpy())
    array = rows.finish()
    if is_single(images) and len(array) == 1:
        array = array[0]
    if output == "torch":
        return torch.from_numpy(array).to(encoder.device)
    return Features(array, tuple(names), encoder.partition, encoder.config.name)


class _Rows:
    """A float32 array that grows in place: a list of batches, joined at the end, would hold every row twice."""

    def __init__(self, width: int):
        self.buffer = np.empty((0, width), np.float32)
        self.used = 0

    def append(self, rows: np.ndarray) -> None:
        needed = self.used + len(rows)
        if needed > len(self.buffer):
            self.buffer.resize((needed + needed // 4, self.buffer.shape[1]), refcheck=False)
        self.buffer[self.used : needed] = rows
        self.used = needed

    def finish(self) -> np.ndarray:
        self.buffer.resize((self.used, self.buffer.shape[1]), refcheck=False)
        return self.buffer


def _bar(items: Iterator[tuple[list[str], Tensor]], progress: bool) -> Iterator[tuple[list[str], Tensor]]:
    """Shows a bar from the second batch on: one batch needs none."""
    bar = None
    seen = 0
    for names, codes in items:
        if progress and bar is None and seen:
            from tqdm import tqdm

            bar = tqdm(unit="picture", initial=seen)
        yield names, codes
        seen += len(names)
        if bar is not None:
            bar.update(len(names))
    if bar is not None:
        bar.close()
