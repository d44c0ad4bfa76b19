"""Tokenizers: networks that turn the tokens of a teacher, or clips, into codes.

=============  =============================================================================
``nearest``    the code of a token: the nearest of all vectors
``kmeans``     the codes to begin with
``network``    ``Tokenizer``: the encoder, the choice of codes, and the decoder, as it is trained
``frozen``     ``FrozenTokenizer``: the encoder and the codes alone, as a teacher holds it
``folder``     tokenizers on disk
=============  =============================================================================
"""
