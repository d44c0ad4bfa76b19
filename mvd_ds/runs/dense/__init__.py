"""The runs that read dense targets out of the tokens of frozen encoders."""
