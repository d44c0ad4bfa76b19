"""Checkpoints: write, verify, prune, reshard and load them."""
