"""Targets and losses: what is predicted, how far off a prediction is, and what the numbers look like.

Everything here takes and returns tensors, computes in fp32 whatever comes in, and knows neither models nor data.
"""
