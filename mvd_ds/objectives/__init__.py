"""Targets, losses and diagnostics of masked prediction and classification.

Everything here takes and returns tensors, computes in fp32 whatever comes in, and knows neither models nor data.
"""
