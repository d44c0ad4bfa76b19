"""The `prepare` command: inspect videos, report what is broken, encode anew, pack tar shards."""
