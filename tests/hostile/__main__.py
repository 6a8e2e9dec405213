"""Counts of hostile inputs: `python -m tests.hostile images --count 10000`, `files --count 2000`, `kills --count 20`."""

import argparse
import sys
import tempfile
from collections import Counter

from tests.hostile import harness


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("what", choices=("images", "files", "kills"))
    parser.add_argument("--count", type=int, default=100, help="of all images together, of each kind of file")
    parser.add_argument("--kinds", nargs="+", help="formats, or kinds of files; all by default")
    parser.add_argument("--keep", help="a folder for what failed")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of single inputs")
    options = parser.parse_args(arguments)
    if options.what == "kills":
        return kill(options.kinds, options.count)
    kinds = options.kinds or kinds_of(options.what)
    failed = 0
    totals = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for place, kind in enumerate(kinds):
            count = options.count
            if options.what == "images":
                count = options.count // len(kinds) + (place < options.count % len(kinds))
            tally = harness.run(f"{options.what}:{kind}", count, options.keep or scratch, indices=options.only)
            print(tally, flush=True)
            reasons = {}
            for index, reason in tally.failures:
                reasons.setdefault(reason, []).append(index)
            for reason, indices in list(reasons.items())[:20]:
                print(f"  --only {' '.join(map(str, indices[:5]))}: {reason}", flush=True)
            failed += len(tally.failures)
            totals.update(tally.outcomes)
    print(f"all: {sum(totals.values()) + failed} tried, {dict(totals)}, {failed} failed")
    return failed > 0


def kill(kinds, count):
    from tests.hostile.kills import JOBS, run

    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for kind in kinds or JOBS:
            length, killed, failures = run(kind, count, scratch)
            survived = count - len(failures)
            print(
                f"{kind:14} of {length:.2f} s: tried {count}, killed before their end {killed}, the same bytes {survived}"
            )
            for number, reason in failures:
                print(f"  {number}: {reason}")
            failed += len(failures)
    return failed > 0


def kinds_of(what):
    if what == "images":
        from tests.hostile.images import FORMATS

        return FORMATS
    from tests.hostile.files import KINDS

    return KINDS


if __name__ == "__main__":
    sys.exit(main())
