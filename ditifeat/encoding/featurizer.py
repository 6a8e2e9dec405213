"""The encoder as a scikit-learn transformer: pictures in, features out, in any `Pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from ditifeat.data.preprocessing import Crop
from ditifeat.encoding.encode import encode
from ditifeat.encoding.encoder import Encoder, load_encoder


@lru_cache(maxsize=4)
def _cached_encoder(model: str | None, device: str) -> Encoder:
    """One network a process for all clones of a transformer: a grid search makes dozens."""
    return load_encoder(model, device=device)


class DiTiFeaturizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of a column of pictures: `make_pipeline(DiTiFeaturizer(), LogisticRegression())`.

    The constructor only stores; the model is loaded at the first `transform`, once a process. Pickles hold its name.

    Args:
        model: as `load_encoder` takes it.
        device: a torch device.
        batch_size: pictures a pass.
        crop: "model" or "center", as in `encode`.
        time_steps: (lo, hi) for the columns of those time-steps alone; all by default.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "cpu",
        batch_size: int = 64,
        crop: Crop = "model",
        time_steps: tuple[int, int] | None = None,
    ):
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.crop = crop
        self.time_steps = time_steps

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        return tags

    def fit(self, X: Any, y: Any = None) -> DiTiFeaturizer:
        """Nothing is learnt."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features `(n, d)` of pictures: paths, arrays, PIL pictures; see `ditifeat.encode`.

        Raises:
            ImageDecodeError, InputError: for a bad picture.
        """
        encoder = _cached_encoder(self.model, self.device)
        # Object arrays are what scikit-learn makes of lists of paths when it splits them.
        images = list(X) if isinstance(X, Sequence) or getattr(X, "ndim", 0) == 1 else X
        features = encode(encoder, images, batch_size=self.batch_size, crop=self.crop)
        return features.array if self.time_steps is None else features.time_steps(*self.time_steps)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`s07_d034`: subset 7, dimension 34."""
        partition = _cached_encoder(self.model, self.device).partition
        names = np.array([f"s{s:02d}_d{d:03d}" for d, s in enumerate(partition.subset_of_dim)], dtype=object)
        return names if self.time_steps is None else names[partition.dims_of_time_steps(*self.time_steps)]
