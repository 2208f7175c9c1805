"""What can be configured in pretraining: every key, its type, default and meaning.

Configuration files build on ``pretrain_config()``; ``resolve`` checks the result once and returns
plain typed values.
"""

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from ufm_jax.config.cluster import ClusterConfig
from ufm_jax.config.compatibility import check_training
from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.schema import from_config_dict, to_config_dict
from ufm_jax.config.training import (
    CheckpointConfig,
    HeldOutConfig,
    OptimizerConfig,
    PlacementConfig,
    ScheduleConfig,
)
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.ranges import Checked, Factors, Parts, Seed, Share


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
class PretrainConfig(Checked):
    """Everything that decides a pretraining run."""

    name: str = "pretrain"
    seed: Seed = 0
    data: PretrainingSettings = field(default_factory=PretrainingSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    client_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    server_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="sgd", learning_rate=1.0, scale_by_batch=False, betas=(0.0, 0.0), weight_decay=0.0
        )
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_training(self)


def pretrain_config() -> ConfigDict:
    """The defaults, to be changed by a configuration file."""
    return to_config_dict(PretrainConfig())


def resolve(config: ConfigDict) -> PretrainConfig:
    """Checks a configuration and returns it as typed values.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    return from_config_dict(PretrainConfig, config)
