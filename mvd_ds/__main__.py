"""``python -m mvd_ds COMMAND RECIPE [key=value ...]``."""

import atexit
import importlib.util
import os
import sys
import threading

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
    if "RANK" in os.environ:
        # A rank leaves communication threads of torch behind, and now and then the interpreter's teardown aborts on them
        # (exit code 250 after a run that ended well). Do by hand what it does for Python, and leave.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
