"""Real ultrasound from folders: five public sets as sixteen institutions, patients kept together.

The folder given as root holds one folder a set, each with an index.csv (image, group, split, ...).
Sets are cut by group into the clients named below; change `clients_per_set` to fit yours, or leave
it empty for a client a set. For a folder of images a client, set `data.source='folders'`.

Expect (ViT-Ti/16, 128 pixels, 24 rounds, 7,747 images): see docs/pretraining.md.

    python -m ufm_jax.pretrain --config=configs/pretrain_sites.py --workdir=runs/sites \
        --config.data.root=FOLDER
"""

from ml_collections import ConfigDict

from ufm_jax.train.config import pretrain_config


def get_config() -> ConfigDict:
    config = pretrain_config()
    config.name = "pretrain_sites"
    config.data.source = "index"
    config.data.clients_per_set = (
        "busi_breast:4",
        "hc18_fetal_head:3",
        "gb_biliary_atresia:4",
        "pocus_lung:3",
        "rus_abdomen:2",
    )
    config.data.on_bad = "skip"
    config.data.partition_sigma = 0.5
    config.data.working_size = 160
    config.model.size = "ti"
    config.model.image_size = 128
    config.model.decoder_width = 128
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.model.channels = 1
    config.federation.rounds = 24
    config.federation.batch_size = 32
    config.client_optimizer.learning_rate = 1e-3
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 3
    config.checkpoint.every_rounds = 4
    return config
