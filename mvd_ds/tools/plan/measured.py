"""A machine as ``prove`` has measured it, in place of the assumptions of the table."""

from __future__ import annotations

import statistics
from pathlib import Path

from mvd_ds.files import ConfigError, read_json
from mvd_ds.tools.machine.devices import Machine


def as_measured(machine: Machine, path: Path) -> Machine:
    """Return ``machine`` with the matrix rate and the median efficiency of the steps in the results of ``prove``.

    Raises:
        ConfigError: if the file is not such a result, holds no measured step, or is of another device.
    """
    result = read_json(path)
    try:
        measured = result["parts"]["speed"]["measured"]
        rate, name = float(measured["matrix_tflops"]), str(measured["device"])
        plans = [value["plan"] for value in measured.values() if isinstance(value, dict) and "plan" in value]
        efficiency = statistics.median(float(found) for plan in plans if (found := plan["measured_efficiency"]))
    except (KeyError, TypeError, ValueError, AttributeError, statistics.StatisticsError):
        raise ConfigError(f"--measured {path}: holds no measured step; write it by `python -m mvd_ds prove`") from None
    if name != machine.device.name:
        raise ConfigError(f"--measured {path}: was measured on {name}, and the plan is for {machine.device.name}")
    if not (rate > 0 and efficiency > 0):
        raise ConfigError(f"--measured {path}: a rate of {rate} TFLOP/s at an efficiency of {efficiency} is no measurement")
    return machine._replace(device=machine.device.model_copy(update={"matrix_tflops": rate}), efficiency=efficiency)
