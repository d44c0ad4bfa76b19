"""The `doctor` command: examine hosts and devices before a training starts."""
