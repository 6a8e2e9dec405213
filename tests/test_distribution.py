"""The source distribution holds what its tests need, the wheel what users need and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ditifeat", "tests", "examples", "weights_card")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The paths in the source distribution and in the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        sdist = {Path(*Path(m.name).parts[1:]).as_posix() for m in archive if m.isfile()}
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return sdist, set(archive.namelist())


def files_of(folder):
    files = (p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file())
    hidden = ("__pycache__", ".ipynb_checkpoints")
    return {p.as_posix() for p in files if not any(part in hidden for part in p.parts)}


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_sdist_holds_all_that_tests_read(built, folder):
    assert files_of(folder) - built[0] == set()


@pytest.mark.slow
def test_sdist_holds_the_pages_and_versions(built):
    pages = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml"}
    assert pages | {"constraints.txt", "constraints-lowest.txt"} <= built[0]


@pytest.mark.slow
def test_wheel_holds_the_package_alone(built):
    wheel = {name for name in built[1] if ".dist-info/" not in name}
    assert wheel == files_of("ditifeat")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built[1])
