"""The table of devices: every card that `plan` knows has a peak, and a card is known by the name that its driver reports."""

import pytest

from mvd_ds.config.devices import device_reported_as, devices, peak_bf16_flops

REPORTED = {
    "h200": "NVIDIA H200",
    "h100": "NVIDIA H100 80GB HBM3",
    "b200": "NVIDIA B200",
    "a100": "NVIDIA A100-SXM4-80GB",
    "a100_40": "NVIDIA A100-SXM4-40GB",
    "l40s": "NVIDIA L40S",
    "rtx4090": "NVIDIA GeForce RTX 4090",
}


def test_every_card_that_plan_knows_has_a_peak_under_its_reported_name() -> None:
    assert REPORTED.keys() == devices().keys()
    for key, name in REPORTED.items():
        assert device_reported_as(name) == key
        assert peak_bf16_flops(name) == devices()[key].bf16_tflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA GH200 480GB", "NVIDIA GB200", "NVIDIA GeForce RTX 3090"])
def test_a_card_with_other_numbers_is_not_taken_for_one_of_the_table(name: str) -> None:
    assert device_reported_as(name) is None and peak_bf16_flops(name) is None
