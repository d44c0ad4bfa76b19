"""This room measures what networks know.

``metrics`` counts accuracy over processes; ``predictions`` averages views and makes every figure of a test.
``features`` runs videos through any number of networks in one pass and keeps one vector a clip; ``probes`` fits linear
classifiers on these vectors and compares networks clip by clip.
"""
