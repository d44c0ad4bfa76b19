"""Networks that can teach: one file for each family, and one row in ``NETWORKS``.

=================  ==================================================================================
``family``         ``FrozenNetwork``: the interface of all networks; ``Family``: a row of the table
``ours``           encoders of this package, with weights in any layout of ``formats``
``timm_family``    ``network: timm:NAME``, any image network of timm
``hf_family``      ``network: hf:FOLDER_OR_NAME``, networks of images and videos of transformers; ``hf_towers`` is their table
``frame_family``   ``network: dhvt:NAME``, ``patchconv:NAME`` and ``dvae:dalle``, image networks in files of their own
``measured``       operations and memory of modules of other libraries
``deferred``       modules of other libraries, filled part by part
=================  ==================================================================================
"""

from __future__ import annotations

from mvd_ds.config import TeacherSettings
from mvd_ds.models.networks import frame_family, hf_family, ours, timm_family
from mvd_ds.models.networks.family import Family, FrozenNetwork, Reading, Reads, reads_of

__all__ = ["NETWORKS", "Family", "FrozenNetwork", "Reading", "Reads", "family_of", "reads_of"]

OURS = "mvd_ds"
NETWORKS: dict[str, Family] = {
    OURS: Family(ours.plan_network, ours.outline, ours.forward_flops, gives_attention=True),
    "timm": Family(
        timm_family.plan_network, timm_family.outline, timm_family.forward_flops, timm_family.forward_peak, gives_attention=True
    ),
    "hf": Family(
        hf_family.plan_network, hf_family.outline, hf_family.forward_flops, hf_family.forward_peak, gives_attention=True
    ),
    **dict.fromkeys(frame_family.FAMILIES, Family(frame_family.plan_network, frame_family.outline, frame_family.forward_flops)),
}
"""Every family by what stands before the colon in ``network: FAMILY:NAME``; ours where there is no ``network``."""


def family_of(settings: TeacherSettings) -> Family:
    """Return the family that a teacher's network is of."""
    return NETWORKS[settings.network.partition(":")[0] if settings.network else OURS]
