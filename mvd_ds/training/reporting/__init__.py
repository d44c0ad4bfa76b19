"""Metrics, health, memory and provenance of a run, written while it trains."""
