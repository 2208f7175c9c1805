"""The configuration of a small study."""

from ml_collections import ConfigDict

from tests.deployment.small_study import KEYS
from ufm_jax.config.pretraining import pretrain_config


def get_config() -> ConfigDict:
    config = pretrain_config()
    config.update_from_flattened_dict(KEYS)
    config.data.root = "-"
    return config
