"""``python -m mvd_ds COMMAND RECIPE [key=value ...]``."""

import os
import sys

from mvd_ds.cli import main

if __name__ == "__main__":
    code = main()
    if code and "RANK" in os.environ:
        # A rank that leaves on a fault leaves communication threads behind, and now and then the interpreter's end aborts
        # on them (exit code 250 instead of 2). All that had to be written is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
