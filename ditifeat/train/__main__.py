"""`accelerate launch -m ditifeat.train RECIPE --data FOLDER --out RUN`."""

from __future__ import annotations

import argparse
import logging
import sys

from ditifeat.errors import DitifeatError
from ditifeat.train.arguments import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ditifeat.train", description="Learn features of your own images.")
    add_arguments(parser)
    arguments = parser.parse_args()
    logging.getLogger("ditifeat").addHandler(logging.StreamHandler())
    logging.getLogger("ditifeat").setLevel(logging.INFO)
    try:
        run(arguments)
    except DitifeatError as error:
        print(f"ditifeat: {error}", file=sys.stderr)
        sys.exit(2)
