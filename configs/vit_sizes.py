"""ViT-Ti, S, B, L or H by name, on lists of images: the published recipe at another size.

ViT-H takes patches of 14 pixels, as in MAE. Large models: recompute blocks in the backward pass.

    python -m ufm_jax.pretrain --config=configs/vit_sizes.py:l --workdir=runs/vit_l \
        --config.data.root=ROOT
"""

from ml_collections import ConfigDict

from ufm_jax.config.pretraining import pretrain_config


def get_config(size: str = "s") -> ConfigDict:
    config = pretrain_config()
    config.name = "vit_sizes"
    config.data.source = "lists"
    config.data.on_bad = "skip"
    config.data.working_size = 256
    config.model.size = size
    config.model.patch_size = 14 if size == "h" else 16
    config.model.dtype = "bfloat16"
    config.model.remat = config.model.scan_layers = size in ("l", "h")
    config.placement.data_home = "host"
    return config
