"""Targets that teachers gave of fixed views, kept on disk: the index, the files, and the clips that they belong to."""
