"""`python -m ditifeat`."""

import sys

from ditifeat.cli import main

if __name__ == "__main__":
    sys.exit(main())
