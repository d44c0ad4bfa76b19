"""Settings of tokenizers, which turn the tokens of a teacher, or clips, into codes.

=============  =============================================================================
``settings``   ``TokenizerSettings``: the codebook, and what a code has to reconstruct
``recipe``     ``TokenizerRecipe``: a run that learns one
``card``       ``TokenizerCard``: what a finished tokenizer says of itself and of its teacher
=============  =============================================================================
"""
