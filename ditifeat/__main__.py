"""`python -m ditifeat`."""

import sys

from ditifeat.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
