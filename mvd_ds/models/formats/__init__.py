"""Published weights and our own: every layout is read strictly, with a table of what went where.

====================  ==========================================================================================
``rules``             a layout: names in a file against names here, one list for reading, writing and gradients
``published``         MAE, VideoMAE (also version 2), MVD, timm: pretraining and fine-tuned
``huggingface``       ``VideoMAE*`` and ``ViTMAE*`` folders
``vjepa2``            V-JEPA 2: Hugging Face folders, and files of the published code
``processor``         mean, deviation and size of the pixels that a folder of others was trained on
``foreign``           JSON of others: limits, and every value checked before it is used
``own``               our model folders
``deepspeed_folder``  our ZeRO checkpoints
``zero_shards``       their shard files, as any part of any parameter
``containers``        PyTorch and safetensors files; pickled code is never executed
``detect``            which layout a file has; ``read_checkpoint``
``reading``           every tensor placed, ignored for a reason, or named as a fault
``facts``             settings that tensors and layouts determine
``describe``          the network of a file, and how it differs from what a recipe states
``writing``           files for others: tensors by their names, and every part that has no place there
``hf_config``         the JSON beside them: network, pixels, classes
====================  ==========================================================================================
"""

from mvd_ds.models.formats.describe import Network, describe
from mvd_ds.models.formats.detect import LAYOUTS, read_checkpoint
from mvd_ds.models.formats.reading import Checkpoint, table_lines

__all__ = ["LAYOUTS", "Checkpoint", "Network", "describe", "read_checkpoint", "table_lines"]
