"""What keeps a run from hanging or dying unseen: heartbeats, watchdog, locks, signals, rank logs."""
