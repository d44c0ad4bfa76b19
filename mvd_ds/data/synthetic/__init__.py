"""The sample set: moving digits with two independent labels, written as H.264 files."""
