"""`accelerate launch -m ditifeat.train RECIPE --data FOLDER --out RUN`."""

from __future__ import annotations

import argparse
import sys

from ditifeat.errors import DitifeatError
from ditifeat.train.arguments import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ditifeat.train", description="Learn features of your own images.")
    add_arguments(parser)
    try:
        run(parser.parse_args())
    except DitifeatError as error:
        print(f"ditifeat: {error}", file=sys.stderr)
        sys.exit(2)
