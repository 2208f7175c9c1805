"""Real ultrasound from folders, a ViT-Ti/16 at 128 pixels.

A folder of images for each institution:

    python -m ufm_jax.pretrain --config=configs/pretrain_sites.py --workdir=runs/sites \
        --config.data.root=FOLDER

A folder a set, each with an index.csv (image, group, ...): set `data.source='index'`. The variant
`public` takes five public sets laid out so as sixteen institutions, cut by patient group:

    python -m ufm_jax.pretrain --config=configs/pretrain_sites.py:public --workdir=runs/public \
        --config.data.root=FOLDER

Expect of it: 24 rounds over 7,747 images in 20 minutes on 2 cores; the loss falls from 1.3 to 0.90
(see docs/pretraining.md). The variant `held_out` leaves out the images on which
configs/finetune_public.py tests, and trains 80 rounds over the other 6,354 in an hour: the encoder
of docs/downstream.md.

The variant `shipped` is for an encoder that anybody may use: of the images of `held_out` those
under CC BY or MIT, and 2,000 phantoms, each seen 150 times in 64 minutes: the encoder of
weights/README.md. Make the phantoms in FOLDER first:

    python -m tools.prepare_data phantoms --out FOLDER/phantoms --images 500 --seed 16
"""

from ml_collections import ConfigDict

from ufm_jax.config.pretraining import pretrain_config

_NOT_FOR_ALL = (
    "CC BY-NC 4.0; probe=convex",
    "CC BY-NC 4.0; probe=linear",
    "CC BY-NC -SA 4.0; probe=convex",
    "CC BY-NC -SA 4.0; probe=linear",
    "CC BY-NC -SA 3.0; probe=convex",
)
"""Notes of lung images that a shared encoder may not have seen."""


def get_config(variant: str = "folders") -> ConfigDict:
    if variant not in ("folders", "public", "held_out", "shipped"):
        raise ValueError(f"variant {variant!r}: choose folders, public, held_out or shipped")
    config = pretrain_config()
    config.name = "pretrain_sites"
    config.data.source = "folders"
    config.data.on_bad = "skip"
    config.data.working_size = 160
    config.model.size = "ti"
    config.model.image_size = 128
    config.model.channels = 1
    config.model.decoder_width = 128
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.federation.rounds = 24
    config.federation.batch_size = 32
    config.client_optimizer.learning_rate = 1e-3
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 3
    config.checkpoint.every_rounds = 4
    if variant != "folders":
        config.data.source = "index"
        config.data.partition_sigma = 0.5
        config.data.clients_per_set = (
            "busi_breast:4",
            "hc18_fetal_head:3",
            "gb_biliary_atresia:4",
            "pocus_lung:3",
            "rus_abdomen:2",
        )
    if variant in ("held_out", "shipped"):
        config.federation.rounds = 80
        config.data.exclude = (
            "busi_breast:fold5=0",
            "pocus_lung:fold5=0",
            "hc18_fetal_head:fold5=0",
            "gb_biliary_atresia:split=test",
        )
    if variant == "shipped":
        config.name = "ufm_ti16"
        config.data.index = (
            "busi_breast/index.csv",
            "hc18_fetal_head/index.csv",
            "gb_biliary_atresia/index.csv",
            "pocus_lung/index.csv",
            "phantoms/index.csv",
        )
        config.data.clients_per_set = (
            "busi_breast:4",
            "hc18_fetal_head:3",
            "gb_biliary_atresia:4",
            "pocus_lung:2",
            "phantoms:3",
        )
        licences = tuple(f"pocus_lung:notes=licence={name}" for name in _NOT_FOR_ALL)
        config.data.exclude = (*licences, *config.data.exclude)
        # Small batches, short rounds, shared moments: "How near to one place", docs/pretraining.md.
        config.federation.rounds = 600
        config.federation.local_epochs = 0.25
        config.federation.batch_size = 8
        config.federation.client_state = "average"
        config.schedule.warmup_rounds = 30
        config.checkpoint.every_rounds = 20
    return config
