"""Pages and tables of networks that tell several classes of a video, or a real number."""
