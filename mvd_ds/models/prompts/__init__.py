"""Prompts: learned vectors among the tokens of two frozen towers, which say what classes are.

==============  =====================================================================================
``texts``       the names of classes as rows of vectors, with learned ones among them
``deep``        learned vectors in front of each block of an encoder or of a text tower
``head``        what every head of prompts is, and what it stands on
``coop``        CoOp: vectors before the name of a class
``cocoop``      CoCoOp: the same, shifted by what is seen
``metaprompt``  MetaPrompt: deep prompts in both towers, three losses, episodes over halves of the classes
``vpt``         VPT: deep prompts in the encoder alone, with a linear layer
``table``       all of them by name
``classifier``  frozen towers with a trained head: a classifier of clips
``learning``    the same in training: the head alone is a module, towers stand beside it
``file``        the small file of trained prompts
==============  =====================================================================================
"""
