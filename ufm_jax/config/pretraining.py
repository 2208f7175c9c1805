"""What can be configured in pretraining: every key, its type, default and meaning.

Configuration files build on ``pretrain_config()``; ``resolve`` checks the result once and returns
plain typed values.
"""

from dataclasses import dataclass, field
from typing import Annotated

from ml_collections import ConfigDict

from ufm_jax.config.cluster import ClusterConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.schema import from_config_dict, to_config_dict
from ufm_jax.config.training import TrainingConfig
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.ranges import Checked, Count, Factors, Parts, Range, Share


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Augmentation, on the device.

    Attributes:
        crop_area: Range of the random crop's share of the image's area.
        crop_ratio: Range of its aspect ratio, width over height.
        flip: Probability of a horizontal flip.
        degrade: Probability that the encoder's input is degraded (motion blur, Gaussian blur,
            salt and pepper); the target stays clean.
        scan_conversion: Probability that an image is seen through the other probe geometry.
    """

    crop_area: Parts = (0.2, 1.0)
    crop_ratio: Factors = (3 / 4, 4 / 3)
    flip: Share = 0.5
    degrade: Share = 0.5
    scan_conversion: Share = 0.5


@dataclass(frozen=True)
class HeldOutConfig(Checked):
    """How the shared model is judged while it pretrains, on the images that clients hold out.

    Attributes:
        every_rounds: Rounds between looks; 0 takes so many that a look costs 3 % of the training
            at most. Every checkpoint and the last round have a look.
        batch_size: Images a forward pass, on all devices together.
        probe_looks: How often in a run frozen features are probed, where images have labels; 0 for
            never.
    """

    every_rounds: Count = 0
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    probe_looks: Count = 5


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Everything that decides a pretraining run."""

    name: str = "pretrain"
    data: PretrainingSettings = field(default_factory=PretrainingSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def pretrain_config() -> ConfigDict:
    """The defaults, to be changed by a configuration file."""
    return to_config_dict(PretrainConfig())


def resolve(config: ConfigDict) -> PretrainConfig:
    """Checks a configuration and returns it as typed values.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    return from_config_dict(PretrainConfig, config)
