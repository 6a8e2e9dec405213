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

from ditifeat.align import Align
from ditifeat.analysis.columns import column_names, dims_of_range
from ditifeat.data.preprocessing import Crop
from ditifeat.encoding.device import choose_device
from ditifeat.encoding.encoder import Encoder, encode, load_encoder
from ditifeat.encoding.loaded import WEIGHTS
from ditifeat.errors import InputError
from ditifeat.pretrained.names import BUNDLED

_LOCK = Lock()  # lru_cache alone lets two threads load the same network


@lru_cache(maxsize=4)
def _cached_encoder(model: str | None, device: str, state: tuple[Any, ...]) -> Encoder:
    """One network per process for all clones of a transformer, of which a grid search makes dozens."""
    return load_encoder(model, device=device)


def _file_state(model: Any) -> tuple[Any, ...]:
    """What changes when a model folder is trained again in place: its files' number, time and size."""
    if not isinstance(model, str | os.PathLike) or not os.path.isdir(os.path.expanduser(model)):
        return ()  # the Hub's and the bundled files do not change
    paths = [Path(model, name).expanduser() for name in ("config.json", WEIGHTS)]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (path.stat() for path in paths if path.exists()))


class DiTiFeaturizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer of images, or a column of their paths, to features.

    The constructor only stores, and `fit` learns nothing. The model is loaded at the first `transform`, where that runs, once
    per process for all clones, and again if its folder was trained again. Pickles hold its name, not its weights. As images
    are no numeric matrix, there is no `n_features_in_`.

    A search encodes every image again per candidate and fold. `Pipeline(..., memory=folder)` keeps the codes of training
    folds: by the paths, so empty the folder if the files change. Held-out folds are encoded still. Since nothing is
    learnt here, it is as correct, and cheaper, to encode once and to search over the codes.

    Args:
        model: as `load_encoder` takes it.
        device: a torch device; by default cuda, else mps, else cpu.
        batch_size: images per batch.
        crop: "model" or "center", as in `encode`.
        time_steps: (lo, hi) for the columns of those time-steps alone; all by default.
        flip_average: mean over each image and its horizontal flip, as in `encode`.
        align: find and align the faces of photos, as in `encode`.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(ditifeat.DiTiFeaturizer(crop="center"), LogisticRegression())
    >>> paths = [f"photos/{i}.png" for i in range(8)]
    >>> pipeline.fit(paths, np.arange(8) % 2).predict(paths).shape
    (8,)

    Encode once, search over the codes, and put the best into a pipeline for images:

    >>> from sklearn.model_selection import GridSearchCV
    >>> codes = pipeline[:-1].transform(paths)
    >>> search = GridSearchCV(pipeline[-1], {"C": [0.1, 1.0]}, cv=2).fit(codes, np.arange(8) % 2)
    >>> make_pipeline(pipeline[0], search.best_estimator_).predict(["me.png"]).shape
    (1,)
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str | None = None,
        batch_size: int = 64,
        crop: Crop = "model",
        time_steps: tuple[int, int] | None = None,
        flip_average: bool = False,
        align: Align = False,
    ):
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.crop = crop
        self.time_steps = time_steps
        self.flip_average = flip_average
        self.align = align

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # float32 always
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Parameters and the state of the model's files, so that joblib's caches know a model that was trained again."""
        return dict(super().__getstate__()) | {"_files": _file_state(self.model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != "_files"})

    def fit(self, X: Any, y: Any = None) -> DiTiFeaturizer:
        """Learn nothing: the encoder is pretrained."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode images to features `(n, d)`, float32, one row each.

        Args:
            X: a list, array or Series of paths, of encoded images' bytes or of PIL images; a table (pandas, polars, pyarrow,
                datasets) of one such column, as `ColumnTransformer` passes it; or images, as `ditifeat.encode` takes them. One
                string is a folder, a tar or an image.

        Raises:
            ImageDecodeError, InputError: for an image that cannot be decoded, several columns, a column of numbers, a missing
                value, or a row that is several images.

        >>> ditifeat.DiTiFeaturizer(crop="center").transform("photos/").shape
        (8, 512)
        """
        images = _column(X)
        _check_rows(images)
        features = encode(
            self._encoder(),
            images,
            batch_size=self.batch_size,
            crop=self.crop,
            flip_average=self.flip_average,
            align=self.align,
        )
        count = None if isinstance(X, str | os.PathLike) or not hasattr(images, "__len__") else len(images)
        if features.ndim == 2 and count not in (None, len(features)):
            raise InputError(f"{count} rows hold {len(features)} images; each row must be one image")
        array = np.atleast_2d(features.array)
        return array if self.time_steps is None else array[:, dims_of_range(features.partition, self.time_steps)]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name the columns: `s07_d034` is dimension 34, of subset 7.

        >>> ditifeat.DiTiFeaturizer(time_steps=(500, 1000)).get_feature_names_out()[:2].tolist()
        ['s32_d462', 's33_d463']
        """
        partition = self._encoder().partition
        names = np.array(column_names(partition), dtype=object)
        return names if self.time_steps is None else names[dims_of_range(partition, self.time_steps)]

    def _encoder(self) -> Encoder:
        if not isinstance(self.model, str | os.PathLike | None):
            raise InputError(f"model = {self.model!r} is not a name or folder, as load_encoder takes it")
        # One key for all spellings: None and the default's name, ./run and its absolute path, None and "cpu".
        model, state = None if self.model is None else os.fspath(self.model), _file_state(self.model)
        if state and model is not None and model not in BUNDLED:  # load_encoder refuses a folder of such a name
            model = os.path.abspath(os.path.expanduser(model))
        elif model == BUNDLED[0] and not state:
            model = None
        with _LOCK:
            return _cached_encoder(model, str(choose_device(self.device)), state)


def _column(X: Any) -> Any:
    """The images of a table's only column; anything else as it is.

    Raises:
        InputError: for a table of several columns, with their names.
    """
    # pyarrow's and datasets' tables have `column_names`; a pandas table may have a column of that name.
    names = X.column_names if hasattr(type(X), "column_names") else getattr(X, "columns", None)
    if names is None:
        return X
    if len(names) != 1:
        listed = ", ".join(str(name) for name in names) or "none"
        raise InputError(f"a table with columns {listed}: pass the one with the images, as X[[name]]")
    return X[names[0]] if len(X) else []


def _check_rows(images: Any) -> None:
    """Refuse what `encode` would take for one image, and a missing value, with its row.

    Raises:
        InputError: for numbers that are no images, or a row that is missing.
    """
    shape, kind = getattr(images, "shape", ()), getattr(getattr(images, "dtype", None), "kind", "")
    if 1 <= len(shape) <= 2 and (kind in tuple("biufc") or hasattr(images, "detach")):
        raise InputError(
            f"{type(images).__name__} of numbers, of shape {tuple(shape)}, is not rows of images; pass paths, bytes, PIL images "
            "or an array (n, H, W, 3); reshape flattened images"
        )
    if isinstance(images, list | tuple | np.ndarray) or hasattr(images, "to_list"):
        for row, image in enumerate(images):
            nan = isinstance(image, float) and image != image
            if nan or image is None or type(image).__name__ in ("NAType", "NaTType"):
                raise InputError(f"row {row}: the image is missing ({image}); drop the row, or fill it in")
