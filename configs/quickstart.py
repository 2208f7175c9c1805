"""Sixteen synthetic institutions train a small masked autoencoder on a CPU, in minutes.

Expect: about 2 minutes on 2 cores; the shared model's loss on images that are held out falls from
0.9 to 0.28. Pixels are not normalised patch by patch here, so that the reconstructions in the
report are all the model's own; more patches are kept, and pictures less changed, than the published
recipe says, so that these minutes are enough to show something.

    python -m ufm_jax.pretrain --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from ufm_jax.config.pretraining import pretrain_config


def get_config() -> ConfigDict:
    config = pretrain_config()
    config.name = "quickstart"
    config.data.source = "synthetic"
    config.data.num_sites = 16
    config.data.working_size = 80
    config.model.size = "xs"
    config.model.image_size = 64
    config.model.patch_size = 8
    config.model.channels = 1
    config.model.normalise_target = False
    config.model.mask_ratio = 0.6
    config.model.texture_strength = 0.5
    config.model.decoder_width = 96
    config.model.decoder_depth = 2
    config.model.decoder_heads = 3
    config.augment.crop_area = (0.5, 1.0)
    config.augment.degrade = 0.25
    config.augment.scan_conversion = 0.25
    # Short rounds, from moments that all share: see "How near to one place" in docs/pretraining.md.
    config.federation.rounds = 300
    config.federation.batch_size = 4
    config.federation.local_epochs = 0.25
    config.federation.client_state = "average"
    config.client_optimizer.learning_rate = 3e-3
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 20
    return config
