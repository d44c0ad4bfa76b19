"""A table of what runs in bf16 and what stays fp32 when ``engine.precision`` is bf16: the one place where this is stated.

================================  =========================================  ==================================================
what                              kept in                                    why
================================  =========================================  ==================================================
weights in forward and backward   bf16                                       matrix products run at twice the rate or more
weights that the optimizer moves  fp32 masters, moments fp32                 steps of 1e-4 of a weight vanish in 8 bits
matrix products                   bf16 in and out, summed in fp32            what the hardware does, and torch on a CPU
residual stream, encoder          bf16                                       the reference's is fp16; half the memory traffic
residual stream, decoders         bf16                                       differs: fp32 in the reference, by promotion alone
norms                             bf16 in and out, statistics in fp32        the variance of 1e3 channels needs more than 8 bits
softmax                           fp32 inside of every kernel                exp of a rounded sum is off by per cents
class token, positions            fp32 tables, rounded when they are added   they are exact where they are kept
pixels, normalisation of clips    fp32, rounded once                         uint8 has as many bits as bf16
targets: norm, resize, mean       fp32                                       means over blocks and neighbours lose bits
losses, their mean, diagnostics   fp32                                       a mean over 1e6 elements
gradients                         bf16 from backward                         micro batches are summed in fp32 (ZeRO-2 and 3)
================================  =========================================  ==================================================

With ``engine.precision`` fp32 everything is fp32. Half precision (fp16) is not offered: it needs loss scaling, and bf16 does not.

A whole step in bf16, forward, loss and gradients, lies within ``STEP_TOLERANCE`` of the same step in fp32, as relative L2
distance over all of them; a test holds it there.
"""

#: Largest relative L2 distance of a bf16 step from the same step in fp32.
STEP_TOLERANCE = {"prediction": 2e-2, "loss": 1e-2, "gradient": 4e-2}
