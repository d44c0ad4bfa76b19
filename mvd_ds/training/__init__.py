"""The training room: loop, schedule, optimizer groups, checkpoints, metrics, and the window onto the cluster."""
