"""The programs that measure `ditifeat encode` from outside: its speed, and what is lost when it is killed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("encode_kills --images 300 --kills 2 --suffix .parquet", "0 rows lost, 0 rows repeated, 0 rows different"),
        ("encode_kills --images 300 --kills 2 --suffix .npz", "0 rows lost, 0 rows repeated, 0 rows different"),
        ("encode_speed --images 60 --suffix .npz", "of the run's CPU time"),
    ],
)
def test_what_is_printed(words, printed):
    name, *options = words.split()
    command = [sys.executable, "-m", f"ditifeat.benchmark.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and printed in done.stdout, done.stderr[-2000:]
