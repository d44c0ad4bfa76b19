"""Run by test_students.py: runs one after another in the same processes, as ``mvd_ds.train`` starts them from Python.

Takes the overrides of runs by name, as JSON, and those of caches of targets that are filled before the run of that name.
"""

from __future__ import annotations

import json
import os
import sys

from mvd_ds.config import ConfigError
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.runs.caching.cache_targets import cache_targets
from shrinking import RECIPE, shipped


def main(runs: dict[str, list[str]], caches: dict[str, list[str]]) -> None:
    for number, (name, overrides) in enumerate(runs.items()):
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + bool(number))
        if name in caches:
            cache_targets(shipped(caches[name]), RECIPE)
            os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        try:
            train_by_name(RECIPE, overrides)
        except ConfigError as error:
            if os.environ["RANK"] == "0":
                print(f"ended by: {name}: {error}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
