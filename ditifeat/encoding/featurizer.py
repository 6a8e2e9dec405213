"""The encoder as a scikit-learn transformer: images in, features out, in any `Pipeline`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from ditifeat.analysis.features import column_names, dims_of_range
from ditifeat.data.preprocessing import Crop
from ditifeat.encoding.encoder import WEIGHTS, Encoder, encode, load_encoder
from ditifeat.errors import InputError

_LOCK = Lock()  # lru_cache alone lets two threads load the same network


@lru_cache(maxsize=4)
def _cached_encoder(model: str | Path | None, device: str | None, state: tuple[Any, ...]) -> Encoder:
    """One network per process for all clones of a transformer, of which a grid search makes dozens."""
    return load_encoder(model, device=device)


def _file_state(model: str | Path | None) -> tuple[Any, ...]:
    """What changes when a model folder is trained again in place: its files' number, time and size."""
    if model is None or not os.path.isdir(model):
        return ()  # the Hub's and the bundled files do not change
    paths = [Path(model, name) for name in ("config.json", WEIGHTS)]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (path.stat() for path in paths if path.exists()))


class DiTiFeaturizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer of images, or a column of their paths, to features.

    The constructor only stores; the model is loaded at the first `transform`, once per process, and again if its folder was
    trained again. Pickles hold its name.

    Args:
        model: as `load_encoder` takes it.
        device: a torch device; by default cuda, else mps, else cpu.
        batch_size: images per batch.
        crop: "model" or "center", as in `encode`.
        time_steps: (lo, hi) for the columns of those time-steps alone; all by default.
        flip_average: mean over each image and its horizontal flip, as in `encode`.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(ditifeat.DiTiFeaturizer(crop="center"), LogisticRegression())
    >>> paths = [f"photos/{i}.png" for i in range(8)]
    >>> pipeline.fit(paths, np.arange(8) % 2).predict(paths).shape
    (8,)
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str | None = None,
        batch_size: int = 64,
        crop: Crop = "model",
        time_steps: tuple[int, int] | None = None,
        flip_average: bool = False,
    ):
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.crop = crop
        self.time_steps = time_steps
        self.flip_average = flip_average

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None) -> DiTiFeaturizer:
        """Learn nothing: the encoder is pretrained."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode images to features `(n, d)`, one row each.

        Args:
            X: a list, array or Series of paths; a table of one such column, as `ColumnTransformer` passes it; or images, as
                `ditifeat.encode` takes them. One string is a folder, a tar or an image.

        Raises:
            ImageDecodeError, InputError: for an image that cannot be decoded, several columns, or a row that is several images.

        >>> ditifeat.DiTiFeaturizer(crop="center").transform("photos/").shape
        (8, 512)
        """
        features = encode(
            self._encoder(), _column(X), batch_size=self.batch_size, crop=self.crop, flip_average=self.flip_average
        )
        if (
            not isinstance(X, str | os.PathLike)
            and hasattr(X, "__len__")
            and features.ndim == 2
            and len(features) != len(X)
        ):
            raise InputError(f"{len(X)} rows hold {len(features)} images; each row must be one image")
        array = np.atleast_2d(features.array)
        return array if self.time_steps is None else array[:, dims_of_range(features.partition, self.time_steps)]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name the columns: `s07_d034` is dimension 34, of subset 7."""
        partition = self._encoder().partition
        names = np.array(column_names(partition), dtype=object)
        return names if self.time_steps is None else names[dims_of_range(partition, self.time_steps)]

    def _encoder(self) -> Encoder:
        if not isinstance(self.model, str | os.PathLike | None):
            raise InputError(f"model = {self.model!r} is not a name or folder, as load_encoder takes it")
        with _LOCK:
            return _cached_encoder(self.model, self.device, _file_state(self.model))


def _column(X: Any) -> Any:
    """The images of a table's only column; anything else as it is.

    Raises:
        InputError: for a table of several columns, with their names.
    """
    if not hasattr(X, "columns"):
        return X
    names = [str(name) for name in X.columns]
    if len(names) != 1:
        raise InputError(
            f"a table with columns {', '.join(names) or 'none'}: pass the one with the images, as X[[name]]"
        )
    return X[X.columns[0]]
