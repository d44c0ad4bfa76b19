"""The table of the checks that the doctor makes on one host."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from mvd_ds.tools.doctor.findings import Check
from mvd_ds.tools.doctor.gpus import check_device_errors, check_devices, check_kernel_log
from mvd_ds.tools.doctor.host import (
    check_clock,
    check_folder,
    check_limits,
    check_network,
    check_shared_memory,
    check_token,
)
from mvd_ds.tools.doctor.software import (
    READER_PACKAGES,
    check_attention,
    check_matrix_product,
    check_operators,
    check_packages,
    check_reader,
    check_torch,
)


class Question(NamedTuple):
    """A request for the checks of one host.

    Attributes:
        folders: folders of runs or data; one that can be written must be the same folder on every host.
        token: name of the file that ``writer`` has left in the folders that it can write; empty on a host alone.
        writer: host that has written the token.
    """

    folders: tuple[Path, ...] = ()
    token: str = ""
    writer: str = ""


#: Checks without an argument, in the order of the page.
CHECKS: dict[str, Check] = {
    "packages": check_packages,
    "devices": check_devices,
    "torch": check_torch,
    "attention": check_attention,
    "DeepSpeed ops": check_operators,
    **{f"reader {reader}": partial(check_reader, reader) for reader in READER_PACKAGES},
    "matrix product": check_matrix_product,
    "ECC": check_device_errors,
    "Xid": check_kernel_log,
    "limits": check_limits,
    "/dev/shm": check_shared_memory,
    "clock": check_clock,
    "network": check_network,
}


def host_checks(question: Question) -> dict[str, Check]:
    """Return every check of one host by its name."""
    checks: dict[str, Check] = {**CHECKS, **{f"folder {folder}": partial(check_folder, folder) for folder in question.folders}}
    if question.token:
        for folder in question.folders:
            checks[f"shared {folder}"] = partial(check_token, folder, question.token, question.writer)
    return checks
