"""The result of encoding: codes with row names and their partition."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ditifeat.errors import InputError
from ditifeat.files import atomic_write, read_tensors, write_tensors
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict

if TYPE_CHECKING:
    import pandas

ATTRIBUTES, SPARSE_ATTRIBUTES = "attributes.safetensors", "attributes-sparse.safetensors"


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
        return self.array[..., self.partition.dims_of_time_steps(lo, hi)]

    def subsets(self, lo: int, hi: int) -> np.ndarray:
        """The columns of subsets `lo..hi-1`: `(n, m)`, a view."""
        return self.array[..., self.partition.dims_of_subsets(lo, hi)]

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
        columns = slice(None) if time_steps is None else self.partition.dims_of_time_steps(*time_steps)
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
            atomic_write(path, lambda partial: _save_npz(partial, self.array, about))
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
