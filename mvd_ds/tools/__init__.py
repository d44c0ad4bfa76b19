"""What stands beside training: plans, examines machines, reads finished runs, converts weights."""
