"""Real ultrasound from folders, a ViT-Ti/16 at 128 pixels.

A folder of images for each institution:

    python -m ufm_jax.pretrain --config=configs/pretrain_sites.py --workdir=runs/sites \
        --config.data.root=FOLDER

A folder a set, each with an index.csv (image, group, ...): set `data.source='index'`. The variant
`public` takes five public sets laid out so as sixteen institutions, cut by patient group:

    python -m ufm_jax.pretrain --config=configs/pretrain_sites.py:public --workdir=runs/public \
        --config.data.root=FOLDER

`held_out` leaves out the images on which configs/finetune_public.py tests. `shipped` is for an
encoder that anybody may use: of the images of `held_out` those under CC BY or MIT, and phantoms, to
be made in FOLDER first; the encoder of weights/README.md.

    python -m tools.prepare_data phantoms --out FOLDER/phantoms --images 500 --seed 16

In a round each client sends the gradient of one batch, and the server descends by Muon: of the ways
tried the only one that ends where one place does ("How near to one place", docs/pretraining.md).
So a round is a step; each image is seen rounds * clients of a round * batch_size / images times: 24
times in `public` (20 minutes on 2 cores), 80 in `held_out` and 72 in `shipped` (an hour each).
Where messages are dear, `public,epochs` is a round an epoch of AdamW at each client.
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
    name, _, recipe = variant.partition(",")
    if name not in ("folders", "public", "held_out", "shipped"):
        raise ValueError(f"variant {name!r}: choose folders, public, held_out or shipped")
    if recipe not in ("", "epochs"):
        raise ValueError(f"recipe {recipe!r}: choose epochs, or none for a step a round")
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
    if name != "folders":
        config.data.source = "index"
        config.data.partition_sigma = 0.5
        config.data.clients_per_set = (
            "busi_breast:4",
            "hc18_fetal_head:3",
            "gb_biliary_atresia:4",
            "pocus_lung:3",
            "rus_abdomen:2",
        )
    if name in ("held_out", "shipped"):
        config.data.exclude = (
            "busi_breast:fold5=0",
            "pocus_lung:fold5=0",
            "hc18_fetal_head:fold5=0",
            "gb_biliary_atresia:split=test",
        )
    if name == "shipped":
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
    if recipe == "epochs":
        _an_epoch_a_round(config, rounds=24 if name in ("folders", "public") else 80)
    else:
        rounds = {"folders": 400, "public": 2_800, "held_out": 7_500, "shipped": 8_000}[name]
        _a_step_a_round(config, rounds)
        if name != "folders":
            # Drawn by size and counting alike, clients stand for their images without a large one
            # drowning the small. In folders, which may be few, all take part in every round.
            config.federation.cohort_size = 4
            config.federation.participation.sampling = "by_size"
            config.federation.client_weights = "uniform"
            config.federation.batch_size = 16
    return config


def _a_step_a_round(config: ConfigDict, rounds: int) -> None:
    """Clients send the gradient of a batch, which a step of plain SGD at rate 1 is."""
    config.federation.rounds = rounds
    config.federation.local_epochs = 0
    config.federation.local_steps = 1
    config.federation.batch_size = 8
    config.federation.client_state = "reset"
    config.client_optimizer.name = "sgd"
    config.client_optimizer.learning_rate = 1.0
    config.client_optimizer.scale_by_batch = False
    config.client_optimizer.betas = (0.0, 0.0)
    config.client_optimizer.weight_decay = 0.0
    config.server_optimizer.name = "muon"
    config.server_optimizer.learning_rate = 2e-3
    config.server_optimizer.betas = (0.9, 0.95)
    config.server_optimizer.weight_decay = 0.05
    config.schedule.side = "server"
    config.schedule.warmup_rounds = rounds // 10
    config.checkpoint.every_rounds = max(100, rounds // 16)


def _an_epoch_a_round(config: ConfigDict, rounds: int) -> None:
    config.federation.rounds = rounds
    config.federation.batch_size = 32
    config.client_optimizer.learning_rate = 1e-3
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 3
    config.checkpoint.every_rounds = 4
