"""mvd_ds trains large video models by Masked Video Distillation at DeepSpeed scale.

The map of the house:

====================  =================================================================================
``config``            the typed tree of settings
``cli``               ``python -m mvd_ds COMMAND RECIPE [key=value ...]``
``data``              from a line of a manifest to a uint8 clip with its masks
``models``            plain ``nn.Module``s: encoder, student, teachers, and their weights
``objectives``        targets and losses
``training``          loop, schedule, checkpoints; ``training.deepspeed_engine`` is the window onto the cluster
``evaluation``        frozen features and probes
``runs``              one file per command: builds the parts and hands them on
``tools``             what reads finished runs: the report
====================  =================================================================================

The axis alphabet, one meaning everywhere: ``B`` clips, ``K`` masks per clip, ``C`` channels, ``T H W`` frames and
pixels, ``t h w`` token grid, ``N = t*h*w`` tokens, ``V`` visible, ``M`` masked (V + M = N), ``D`` width, ``heads``,
``d`` head width. ``mask`` is bool and **True = masked**, everywhere.
"""

__version__ = "0.1.0"
