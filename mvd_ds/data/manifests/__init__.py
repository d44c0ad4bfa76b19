"""Manifests, dataset lists and class names: from text files to clip references with labels."""
