"""Text towers, and the space that clips and captions share.

=============  ==========================================================================
``tables``     embeddings of tokens and of their places
``tower``      the transformer that reads captions, with blocks of its own or the student's
``head``       vectors of clips and captions, and the scale of their cosines
``folder``     the tower of a folder of transformers: as a student starts from it, or alone and frozen, for prompts
``captioned``  a student that has learnt from captions, opened by its folder
=============  ==========================================================================
"""
