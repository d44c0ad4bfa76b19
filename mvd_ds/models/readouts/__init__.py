"""Readouts: what a student puts behind its encoder to predict one target."""
