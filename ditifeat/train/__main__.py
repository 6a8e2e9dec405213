"""`accelerate launch -m ditifeat.train RECIPE --data FOLDER --out RUN`."""

import sys

from ditifeat.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
