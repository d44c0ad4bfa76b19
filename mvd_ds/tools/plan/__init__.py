"""The `plan` command: compute memory, time and cost of a recipe without running it."""
