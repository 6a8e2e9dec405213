"""What made codes, and which may be mixed."""

from __future__ import annotations

from typing import NamedTuple

from ditifeat.errors import InputError


class Origin(NamedTuple):
    """What made codes: hashes of weights and preprocessing, "" where unknown; whether flips were averaged, None where unknown."""

    weights: str
    preprocessing: str
    flip_average: bool | None


def check_same_origin(ours: Origin, theirs: Origin) -> None:
    """Refuse to mix codes of different encoders, of images that were preprocessed differently, or averaged over flips in part.

    What is unknown is not refused.

    Raises:
        InputError: with what differs, and how to encode.
    """
    nevertheless = "or pass the bare array if they are to be mixed nevertheless"
    what = ("of other weights", "of images that were cropped, resized or aligned in another way")
    for mine, other, which in zip(ours[:2], theirs[:2], what, strict=True):
        if mine and other and mine != other:
            raise InputError(
                f"features {which} ({_short(other)}, not {_short(mine)}); encode them with the same model, crop and align, "
                f"{nevertheless}"
            )
    if None not in (ours.flip_average, theirs.flip_average) and ours.flip_average != theirs.flip_average:
        found, wanted = ("averaged over flips", "plain") if theirs.flip_average else ("plain", "averaged over flips")
        raise InputError(
            f"features that are {found}, not {wanted}; encode them with flip_average={ours.flip_average}, {nevertheless}"
        )


def _short(value: str) -> str:
    """The first digits of a hash, and what follows its plus."""
    digits, plus, rest = value.partition("+")
    return digits[:12] + plus + rest
