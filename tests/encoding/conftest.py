"""A Hub of its own, as the tests of `pretrained` have it."""

from tests.pretrained.conftest import hub, offline

__all__ = ["hub", "offline"]
