"""Classifiers: an encoder, a pooling, a head, and the folder that a user keeps."""
