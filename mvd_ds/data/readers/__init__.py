"""Video readers: from a file and frame indices to uint8 frames."""
