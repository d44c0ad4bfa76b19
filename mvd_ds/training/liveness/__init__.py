"""The guards against runs that hang or die unseen: heartbeats, watchdog, locks, signals, rank logs."""
