"""Run by test_prompts.py: commands one after another in one group of processes, each on a port of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mvd_ds.cli import main

port = int(os.environ["MASTER_PORT"])
codes = []
for number, command in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    os.environ["MASTER_PORT"] = str(port + number)
    codes.append(main(command))
sys.stdout.flush()
os._exit(max(codes))  # as a command leaves, without the teardown in which a rank may abort
