"""The parts that blocks differ in: one file for each idea, and one row for each of its kinds.

===========  =========================================================================================
``norms``    ``NORMS``: what normalises tokens
``mlps``     ``MLPS``: what every token passes on its own
``rotary``   ``ROTATIONS``: positions that turn queries and keys
``style``    ``BlockStyle``: the choices of a block, as settings state them; LayerScale
===========  =========================================================================================
"""
