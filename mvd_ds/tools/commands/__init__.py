"""The commands that are a single file: each module says in a line what its command does, adds its options and runs it.

A command's module has three names: ``SUMMARY``, ``add_options(parser)`` and ``run(options)``. Modules import the standard
library only and import what does the work inside ``run``, so that ``--help`` answers at once. A command with a folder of its
own (``bench``, ``doctor``, ``launch``, ``plan``, ``report``) keeps the same three names in its ``options.py``.
``mvd_ds.cli.COMMANDS`` lists the modules.
"""
