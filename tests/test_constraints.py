"""The versions that are tested are the ones that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != "ditifeat"]


def pins(name):
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines if line and line[0] != "#")


def key(name):
    return name.lower().replace("_", "-")


def test_every_dependency_is_pinned_within_its_range():
    pinned = {key(name): version for name, version in pins("constraints.txt").items()}
    for requirement in requirements():
        assert requirement.specifier.contains(pinned[key(requirement.name)]), requirement


def test_the_lowest_versions_are_the_floors():
    pinned = {key(name): version for name, version in pins("constraints-lowest.txt").items()}
    tested = {r for r in requirements() if key(r.name) in pinned and r.name != "torch"}
    assert {"diffusers", "numpy", "scikit-learn", "pillow"} <= {r.name for r in tested}
    for requirement in tested:
        (floor,) = [s.version for s in requirement.specifier if s.operator == ">="]
        assert Version(floor) == Version(pinned[key(requirement.name)]), requirement
