"""From a line of a manifest to a uint8 clip with its masks.

Follow a clip: ``manifest`` -> ``dataset`` -> ``sampling`` -> ``decode`` (``scan`` chooses the reader) -> ``transforms`` ->
``masking`` -> ``batch``; ``loader`` runs this in worker processes, ``randomness`` keys every draw, ``synthetic`` writes a
labelled set of videos.
"""
