"""What frozen networks know.

``features`` runs videos through any number of networks in one pass and keeps one vector a clip; ``probes`` fits linear
classifiers on these vectors and compares networks clip by clip.
"""
