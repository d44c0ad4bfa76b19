"""Heads of teachers that stay on an encoder, so that it answers in their spaces.

=================  ==================================================================================
``adapted``        ``AdaptedEncoder``: an encoder with the heads of its teachers
``folder``         folders of such encoders, written by ``export --adaptors``
``text_vectors``   a teacher's text vectors of classes, from a file
``zero_shot``      a classifier that compares a clip's vector with them
=================  ==================================================================================
"""
