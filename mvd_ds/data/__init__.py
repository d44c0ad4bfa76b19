"""The data room takes a line of a manifest to a uint8 clip with its masks.

Follow a clip: ``manifests`` -> ``dataset`` -> ``sampling`` -> ``readers`` (``scan`` chooses the one) -> ``transforms`` ->
``masking`` -> ``batch``; ``loader`` runs this in worker processes, ``randomness`` keys every draw, ``synthetic`` writes a
labelled set of videos.
"""
