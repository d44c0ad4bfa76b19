"""``python -m mvd_ds COMMAND RECIPE [key=value ...]``."""

import sys

from mvd_ds.cli import main

if __name__ == "__main__":
    sys.exit(main())
