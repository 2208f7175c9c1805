"""DiLoCo's recipe: 8 workers, 500 local steps of AdamW, Nesterov momentum on the server.

Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models"
(arXiv 2311.08105, 2023), here for the masked autoencoder: the inner optimiser is AdamW, whose
moments each worker keeps, the outer one SGD with Nesterov momentum 0.9 and rate 0.7 on the mean of
the workers' displacements, each worker counting alike. Images are dealt evenly
(`data.partition='iid'`); the paper's unequal shards are clusters, to which 'dirichlet' is nearer.

    python -m ufm_jax.pretrain --config=configs/diloco.py --workdir=runs/diloco \
        --config.data.root=FOLDER

Needs an accelerator: 100 rounds are 400,000 local steps of a ViT-S.
"""

from ml_collections import ConfigDict

from ufm_jax.config.pretraining import pretrain_config


def get_config() -> ConfigDict:
    config = pretrain_config()
    config.name = "diloco"
    config.data.source = "folders"
    config.data.on_bad = "skip"
    config.data.partition = "iid"
    config.data.num_clients = 8
    config.data.working_size = 256
    config.model.size = "s"
    config.model.dtype = "bfloat16"
    config.federation.rounds = 100
    config.federation.local_epochs = 0
    config.federation.local_steps = 500
    config.federation.client_state = "persist"
    config.federation.client_weights = "uniform"
    config.server_optimizer.learning_rate = 0.7
    config.server_optimizer.betas = (0.9, 0.0)
    config.server_optimizer.nesterov = True
    config.schedule.warmup_rounds = 2
    config.placement.data_home = "host"
    return config
