"""Runs that learn tokenizers, and the check that a student learns the codes of its own teacher.

=============  =============================================================================
``learn``      the ``tokenizer`` command
``pictures``   pictures of what codes stand for
``matching``   digests of teachers, there and here
=============  =============================================================================
"""
