"""Caches of teachers' targets: how they are made, and which runs they are for."""
