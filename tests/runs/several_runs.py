"""Run by test_students.py and test_train.py: runs one after another in the same processes, as ``mvd_ds.train`` starts them.

Takes the overrides of runs by name, as JSON, behind the name of a recipe where it is another; and those of caches of targets
that are filled before the run of that name. The name ``preflight`` tries its recipe and runs nothing.
"""

from __future__ import annotations

import json
import os
import sys

from mvd_ds.config import ConfigError
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.runs.preflight import preflight
from shrinking import RECIPE, shipped


def main(runs: dict[str, list[str]], caches: dict[str, list[str]]) -> None:
    for number, (name, overrides) in enumerate(runs.items()):
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + bool(number))
        if name in caches:
            cache_targets(shipped(caches[name]), RECIPE)
            os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        recipe = RECIPE if "=" in overrides[0] else overrides[0]
        try:
            if name == "preflight":
                preflight(shipped(overrides), RECIPE)
            else:
                train_by_name(recipe, overrides[recipe != RECIPE :])
        except ConfigError as error:
            if os.environ["RANK"] == "0":
                print(f"ended by: {name}: {error}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
