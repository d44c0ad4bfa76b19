"""The `bench` command: measure data loading and training steps."""
