"""Tries inputs one by one in a process of its own, whose crashes, hangs and memory are seen from outside."""

import importlib
import json
import os
import random
import resource
import select
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ditifeat.errors import DitifeatError

MIB = 2**20

KINDS = {
    "images": "tests.hostile.images",
    "files": "tests.hostile.files",
    "misbehaving": "tests.hostile.misbehaving",
}


@dataclass
class Limits:
    """What one input may take.

    Attributes:
        seconds: until its answer; more is a hang.
        memory: bytes that the process may grow by, at the peak.
    """

    seconds: float = 20.0
    memory: int = 2048 * MIB


@dataclass
class Tally:
    """What came of the inputs of one kind: how many were read, how many refused, and what went wrong."""

    kind: str
    outcomes: Counter = field(default_factory=Counter)
    failures: list = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0

    @property
    def tried(self):
        return sum(self.outcomes.values()) + len(self.failures)

    def __str__(self):
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.outcomes.items()))
        worst = f"slowest {self.seconds:.2f} s, most memory {self.memory / MIB:.0f} MiB"
        return f"{self.kind:24} tried {self.tried:6}: {counts or 'none'}; FAILED {len(self.failures)}; {worst}"


class Failed(Exception):
    """An input was read as something else than it is."""


class Worker:
    """A process that tries inputs of one kind: `ask(index)` gives its answer, or what became of the process."""

    def __init__(self, kind, folder, limits):
        self.limits = limits
        self.log = (Path(folder) / f"{kind.replace(':', '-')}.log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.harness", kind, str(folder), str(limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=Path(__file__).parents[2],
        )
        answer = self.read(120)
        if "failed" in answer:
            raise RuntimeError(f"{kind}: cannot begin: {answer['failed']}")

    def read(self, seconds):
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.process.kill()
            self.process.wait()
            return {"failed": f"no answer within {seconds} s"}
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.flush()
            tail = Path(self.log.name).read_bytes()[-600:].decode(errors="replace")
            return {"failed": f"the process died (exit status {self.process.returncode}): {tail}"}
        return json.loads(line)

    def ask(self, index):
        self.process.stdin.write(f"{index}\n".encode())
        self.process.stdin.flush()
        return self.read(self.limits.seconds)

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        self.log.close()


def run(kind, count, folder, limits=None, indices=None):
    """Try `count` inputs of a kind; the same ones in each run.

    Args:
        kind: "images:png", "files:config": a module of this package, and what is made there.
        count: how many.
        folder: for the files that are tried; one that failed stays there as FAILED-KIND-INDEX.
        limits: of one input.
        indices: those to try, in place of the first `count`.
    """
    limits = limits or Limits()
    tally, worker = Tally(kind), Worker(kind, folder, limits)
    for index in range(count) if indices is None else indices:
        if worker.process.poll() is not None:
            worker = Worker(kind, folder, limits)
        answer = worker.ask(index)
        tally.seconds = max(tally.seconds, answer.get("seconds", 0.0))
        tally.memory = max(tally.memory, answer.get("memory", 0))
        if answer.get("memory", 0) > limits.memory:
            answer = {"failed": f"took {answer['memory'] / MIB:.0f} MiB, over {limits.memory / MIB:.0f}"}
        if "failed" in answer:
            tally.failures.append((index, answer["failed"]))
        else:
            tally.outcomes[answer["outcome"]] += 1
    worker.close()
    return tally


def rng_of(kind, index):
    """The random numbers of one input: they follow from its kind and number alone."""
    return random.Random(f"{kind}/{index}")


# Inside the process.


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def main(kind, folder, memory):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else is printed among the answers
    module, _, name = kind.partition(":")
    attempt = importlib.import_module(KINDS[module]).prepare(name, Path(folder))
    room = status("VmSize") + memory + 512 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"outcome": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(attempt, int(line))), file=answers, flush=True)


def _answer(attempt, index):
    reset_peak()
    before, begun = status("VmRSS"), time.perf_counter()
    try:
        answer = {"outcome": attempt(index)}
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        answer = {"failed": f"{type(error).__name__}: {str(error)[:500]} ({frames[-1].filename}:{frames[-1].lineno})"}
    return answer | {"seconds": time.perf_counter() - begun, "memory": status("VmHWM") - before}


def outcome(read, allowed=DitifeatError):
    """ "refused" for our own error, else what `read` gives."""
    try:
        return read()
    except allowed as error:
        text = str(error)
        if "Traceback" in text or len(text) > 20_000:
            raise Failed(f"the message is no message: {text[:300]}") from error
        return "refused"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
