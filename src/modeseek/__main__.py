"""`python -m modeseek` is the `modeseek` command; torchrun starts it that way."""

import sys

from modeseek.cli import main

if __name__ == "__main__":
    sys.exit(main())
