"""The source distribution holds what its tests need, the wheel what users need and nothing else; both install and work.

They are installed into an empty environment that sees the libraries of this one, so nothing is downloaded; the tests then come
from the source distribution, without the package beside them.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ditifeat", "tests", "examples", "weights_card")


# What runs against the installed wheel, beside the collection of all tests (`.ci/run` runs all the fast ones so).
TESTED = (
    "tests/test_docs.py",
    "tests/test_architecture.py",
    "tests/analysis/test_tables.py",
    "tests/pretrained/test_names.py",
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the source distribution and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    return out


@pytest.fixture(scope="module")
def built(dist):
    """The paths in the source distribution and in the wheel."""
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        sdist = {Path(*Path(m.name).parts[1:]).as_posix() for m in archive if m.isfile()}
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        return sdist, set(archive.namelist())


def run(*words, **options):
    """What a program prints; no path of the checkout is known to it."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=600, env=environment, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder, package):
    """The Python of a new environment with the package and, after it, the libraries of this environment."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A .pth comes after the folder it lies in, and those within the folders it names are not read (an editable install).
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(python, "-m", "pip", "install", *options, package)
    return python


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """The Python of an environment with the wheel."""
    return install(tmp_path_factory.mktemp("wheel") / "venv", next(dist.glob("*.whl")))


@pytest.fixture(scope="module")
def unpacked(dist, tmp_path_factory):
    """The source distribution's folder, without the package itself."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (folder,) = folder.iterdir()
    shutil.rmtree(folder / "ditifeat")
    return folder


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


def files_installed(python, folder):
    """Names and sizes of the files of the installed package, which must be the environment's own."""
    where = Path(run(python, "-c", "import ditifeat; print(ditifeat.__file__)", cwd=folder).strip()).parent
    assert where.is_relative_to(python.parents[1])
    return {
        path.relative_to(where).as_posix(): path.stat().st_size
        for path in where.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_wheel_and_sdist_install_the_same(dist, installed, tmp_path):
    from_sdist = files_installed(install(tmp_path / "venv", next(dist.glob("*.tar.gz"))), tmp_path)
    assert from_sdist == files_installed(installed, tmp_path)
    assert {f"ditifeat/{name}" for name in from_sdist} == files_of("ditifeat")


@pytest.mark.slow
def test_the_installed_command_works(installed, tmp_path):
    command = installed.with_name("ditifeat")
    assert run(command, "--version", cwd=tmp_path).startswith("ditifeat ")
    shutil.copy(ROOT / "weights_card" / "quickstart.png", tmp_path / "me.png")
    printed = run(command, "encode", "me.png", "--crop", "center", "--out", "features.npz", cwd=tmp_path)
    assert "features (1, 512) by celeba64-mini" in printed


@pytest.mark.slow
def test_tests_pass_without_the_checkout(installed, unpacked):
    options = ("-q", "-p", "no:cacheprovider")
    collected = run(installed, "-m", "pytest", *options, "--collect-only", "-m", "slow or not slow", cwd=unpacked)
    assert "error" not in collected.splitlines()[-1]
    run(installed, "-m", "pytest", *options, *TESTED, cwd=unpacked)
