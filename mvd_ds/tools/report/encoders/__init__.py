"""Encoders side by side in a report, and curves over their depth."""
