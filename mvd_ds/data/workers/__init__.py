"""Loader processes: decode clips in other processes, keep order, quarantine files that crash a decoder."""
