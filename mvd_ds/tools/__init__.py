"""What reads finished runs: the report."""
