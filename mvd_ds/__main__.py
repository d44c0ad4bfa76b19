"""``python -m mvd_ds COMMAND RECIPE [key=value ...]``."""

import importlib.util
import os
import sys

if __name__ == "__main__":
    if importlib.util.find_spec("pydantic") is None or importlib.util.find_spec("torch") is None:
        print(
            f"mvd_ds: {sys.executable} has no torch or no pydantic; source .venv/bin/activate, which launchers/quickstart.sh and "
            "launchers/test.sh make, or: pip install -r requirements.txt",
            file=sys.stderr,
        )
        sys.exit(2)
    from mvd_ds.cli import main

    code = main()
    if code and "RANK" in os.environ:
        # A rank that leaves on a fault leaves communication threads behind, and now and then the interpreter's end aborts
        # on them (exit code 250 instead of 2). All that had to be written is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
