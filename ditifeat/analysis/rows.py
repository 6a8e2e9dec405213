"""Which rows train a probe: a share drawn at random, or those that are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditifeat.errors import InputError


def training_rows(
    train_size: float | int | None, train_rows: Sequence[int] | np.ndarray | None, count: int, random_state: int
) -> np.ndarray:
    """Choose the training rows of `count` rows, as `ditifeat.probe` takes its arguments: a mask `(count,)`.

    Raises:
        InputError: for arguments that do not fit, or fewer than 2 rows to train on or to test on.
    """
    if train_rows is None:
        mask = _drawn(0.8 if train_size is None else train_size, count, random_state)
    elif train_size is None:
        mask = _given(train_rows, count)
    else:
        raise InputError("give either train_size, a share that is drawn, or train_rows, the rows themselves")
    if mask.sum() < 2 or (~mask).sum() < 2:
        raise InputError(
            f"{int(mask.sum())} rows to train on and {int((~mask).sum())} to test on; both need at least 2"
        )
    return mask


def _drawn(train_size: float | int, count: int, random_state: int) -> np.ndarray:
    share = isinstance(train_size, float | np.floating)
    if isinstance(train_size, bool) or not (share or isinstance(train_size, int | np.integer)):
        raise InputError(f"train_size = {train_size!r} is neither a share nor a number of rows; rows are train_rows")
    if not 0 < train_size < (1 if share else count):
        raise InputError(
            f"train_size = {train_size} is not a share within 0..1, nor a number of rows within 1..{count - 1}"
        )
    mask = np.zeros(count, dtype=bool)
    chosen = round(train_size * count) if share else int(train_size)
    mask[np.random.default_rng(random_state).permutation(count)[:chosen]] = True
    return mask


def _given(train_rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, dtype=bool)
    chosen = np.asarray(train_rows)
    if not chosen.size:
        return mask
    if chosen.ndim != 1 or chosen.dtype.kind not in "iub" or (chosen.dtype == bool and len(chosen) != count):
        raise InputError("train_rows must be row indices, or a mask over all rows; a share is train_size")
    if chosen.dtype != bool and len(chosen) and not (chosen.min() >= 0 and chosen.max() < count):
        raise InputError(f"train_rows holds rows outside 0..{count - 1}")
    mask[chosen] = True
    return mask
