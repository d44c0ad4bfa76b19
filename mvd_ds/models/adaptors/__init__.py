"""Heads of teachers that stay on an encoder, so that it answers in their spaces."""
