"""Faster execution of the same networks: compiled blocks, CUDA graphs, FP8 linear maps."""
