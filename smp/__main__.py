"""`python -m smp`: the command line, see smp/cli/main.py."""

import sys

from smp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
