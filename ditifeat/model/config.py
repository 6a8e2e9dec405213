"""The model folder's `config.json`: read strictly, written atomically.

No configuration names a class, a module or a path outside its folder: `from_dict` fills the dataclasses of this
package and refuses every key that they do not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingFileError, ModelError
from ditifeat.files import check_writable, read_json, write_text
from ditifeat.model.codec import CodecSpec
from ditifeat.model.encoders import EncoderSpec
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict

FORMAT_VERSION = 2  # 1: an encoder could average its codes over horizontal flips

Method = Literal["diti", "diffae", "contrastive"]

EstimatorKind = Literal["published", "decoded"]


@dataclass(frozen=True)
class DMReference:
    """Where the frozen DM is: the folder `dm` of the model folder, or a Hub repository at a pinned commit.

    Attributes:
        repo: `org/name` on the Hub; the model's own folder `dm` when None.
        commit: 40 hex digits; required with `repo`.
        attention_heads: heads of every attention layer, where diffusers' `attention_head_dim` cannot say.

    Raises:
        ModelError: for one of `repo` and `commit` without the other, or a value that is neither.
    """

    repo: str | None = None
    commit: str | None = None
    attention_heads: int | None = None

    def __post_init__(self) -> None:
        if (self.repo is None) != (self.commit is None):
            raise ModelError("dm: a Hub repository needs its commit, and a commit its repository")
        if self.repo is not None and not re.fullmatch(r"(?!.*\.\.)\w[\w.-]*/\w[\w.-]*", self.repo):
            raise ModelError(f"dm: repo = {self.repo!r} is not org/name")
        if self.commit is not None and not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ModelError(f"dm: commit = {self.commit!r} is not 40 hex digits")
        if self.attention_heads is not None and not 1 <= self.attention_heads <= 64:
            raise ModelError(f"dm: attention_heads = {self.attention_heads} is not within 1..64")


@dataclass(frozen=True)
class ModelConfig:
    """A model: its input, encoder, partition, codec and frozen DM.

    Attributes:
        name: of the model.
        image: how its images were cut and resized.
        encoder: the encoder network.
        latent_dim: d, the code's dimensions.
        partition: time-step -> subset -> dimensions.
        codec: the space that the DM works in.
        dm: where the frozen DM is.
        method: "diti" (PDAE is that with one subset), "diffae" (a conditional DM in place of frozen DM and estimator), or
            "contrastive" (an encoder alone).
        estimator: "published" (PDAE's half U-Net) or "decoded" (`ditifeat.model.decoded.DecodedEstimator`, which gets the code
            as an image too).
        training: a summary to read, not to act on.
        format_version: of the folder.

    Raises:
        ModelError: for another format version, or parts that do not fit each other.
    """

    name: str
    image: Preprocessing
    encoder: EncoderSpec
    latent_dim: int
    partition: TimeStepPartition
    codec: CodecSpec = CodecSpec()
    dm: DMReference = DMReference()
    method: Method = "diti"
    estimator: EstimatorKind = "published"
    training: dict[str, Any] = field(default_factory=dict, hash=False)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _check_version(self.format_version)
        for key, kinds in (("method", Method), ("estimator", EstimatorKind)):
            if getattr(self, key) not in get_args(kinds):
                raise ModelError(f"{key} = {getattr(self, key)!r} is not one of {', '.join(get_args(kinds))}")
        if self.latent_dim != self.partition.d:
            raise ModelError(f"latent_dim = {self.latent_dim} differs from the partition's d = {self.partition.d}")
        if self.image.size % self.codec.factor:
            raise ModelError(
                f"codec: factor = {self.codec.factor} does not divide the image's {self.image.size} pixels"
            )


def _check_version(version: Any) -> None:
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        fix = "upgrade ditifeat" if newer else "train or convert the model again, or use the version that made it"
        raise ModelError(f"format_version = {version!r}, this version of ditifeat reads {FORMAT_VERSION}; {fix}")


def read_config(folder: Path) -> ModelConfig:
    """Return the checked `config.json` of a model folder.

    Raises:
        MissingFileError: if the folder or the file does not exist.
        ModelError: for an unknown or missing key, or a value of another type or out of bounds, with its place.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such folder")
    path = folder / "config.json"
    if not path.exists():
        raise MissingFileError(f"{folder}: holds no config.json, so it is not a ditifeat model")
    data = read_json(path)
    try:
        if isinstance(data, dict):  # before keys that another version has or lacks
            _check_version(data.get("format_version", FORMAT_VERSION))
        return from_dict(ModelConfig, data)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


@contextmanager
def configured_last(folder: Path, config: ModelConfig) -> Iterator[None]:
    """Remove `config.json` before a model is written, and write it after: a folder that has one is whole.

    Raises:
        WriteError: if it cannot be written.
    """
    path = folder / "config.json"
    check_writable(path)
    path.unlink(missing_ok=True)
    yield
    write_text(path, json.dumps(asdict(config), indent=2) + "\n")
