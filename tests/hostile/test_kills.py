"""Short forms of `python -m tests.hostile kills`; each in a process of its own, as it forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["train", "encode", "save-model", "save-features"])
def test_a_killed_job_gives_the_same_bytes_when_it_is_done_again(kind):
    if kind in ("encode", "save-features"):
        pytest.importorskip("pyarrow")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "kills", "--kinds", kind, "--count", "2"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "the same bytes 2" in done.stdout, done.stdout + done.stderr
