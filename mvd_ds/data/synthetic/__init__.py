"""The sample sets: worlds whose clips have two independent labels, written as H.264 files."""
