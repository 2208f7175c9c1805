"""The published UltraFedFM recipe: ViT-B/16, 16 institutions, 300 rounds of one local epoch.

npj Digital Medicine 8:714 (2025). A million images in lists, one a client, as its repository lays
them out: ROOT/16_clients/split_1/client_k.txt. Batch 64 a client, AdamW (0.9, 0.95) whose moments
persist, weight decay 0.05, rate 1.5e-4 * 64 / 256, 40 rounds of warm-up, then half a cosine.

Needs an accelerator. One of 80 GB holds the 16 clients' moments (ViT-B: 0.9 GB each); how many of
them train side by side in what is left is measured at the start.

    python -m ufm_jax.pretrain --config=configs/ultrafedfm_vit_b16.py --workdir=runs/ultrafedfm \
        --config.data.root=ROOT
"""

from ml_collections import ConfigDict

from ufm_jax.config.pretraining import pretrain_config


def get_config() -> ConfigDict:
    config = pretrain_config()
    config.name = "ultrafedfm_vit_b16"
    config.data.source = "lists"
    config.data.on_bad = "skip"
    config.data.working_size = 256
    config.model.size = "b"
    config.model.dtype = "bfloat16"
    config.federation.rounds = 300
    config.federation.batch_size = 64
    config.federation.client_state = "persist"
    config.schedule.warmup_rounds = 40
    config.placement.data_home = "host"
    config.placement.lanes = 0
    return config
