"""Losses and gradients that are not finite: detection and the dump for `replay`."""
