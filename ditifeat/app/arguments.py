"""What the command line's options take: numbers within bounds. argparse names the functions in its messages."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from fractions import Fraction


def integer_within(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Make a function that reads a whole number within bounds."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} must be within {low}..{high}")
        return value

    return integer  # argparse names it: "invalid integer value: '2.5'"


positive, not_negative = integer_within(1), integer_within(0)


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} must be a finite number")
    return value


def size(text: str) -> float | int:
    """A share of the rows, as 0.8, or their number, as 8000."""
    return int(text) if text.isdecimal() else number(text)


def fraction(text: str) -> float:
    """A finite number, as 0.25 or 1/4."""
    try:
        return float(Fraction(text))
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text} divides by 0") from None
