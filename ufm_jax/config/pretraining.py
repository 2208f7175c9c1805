"""What can be configured in pretraining: every key, its type, default and meaning.

Configuration files build on ``pretrain_config()``; ``resolve`` checks the result once and returns
plain typed values.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ml_collections import ConfigDict

from ufm_jax.config.cluster import ClusterConfig
from ufm_jax.config.federation import (
    AggregationConfig,
    AlgorithmConfig,
    AsyncConfig,
    AttackConfig,
    CompressionConfig,
    ParticipationConfig,
    PrivacyConfig,
)
from ufm_jax.config.model import EncoderConfig
from ufm_jax.config.schema import from_config_dict, to_config_dict
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import ConfigError
from ufm_jax.ops.masking import num_kept
from ufm_jax.ranges import (
    Amount,
    AtLeastOne,
    Checked,
    Count,
    Factors,
    Parts,
    Pattern,
    Range,
    Seed,
    Share,
)


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """The masked autoencoder; further keys are the encoder's.

    Attributes:
        mask_ratio: Share of the patches that is hidden.
        texture_strength: Exponent on the texture weight: 1 hides textured patches more often, as
            UltraFedFM intends; 0 hides uniformly, as MAE does.
        normalise_target: Whether each target patch is normalised by its own mean and variance.
        decoder_width, decoder_depth, decoder_heads: The decoder.
    """

    mask_ratio: Annotated[float, Range(0, 1, above=True, below=True)] = 0.75
    texture_strength: Amount = 1.0
    normalise_target: bool = True
    decoder_width: Annotated[int, Range(4, 16_384)] = 512
    decoder_depth: Annotated[int, Range(1, 1000)] = 8
    decoder_heads: AtLeastOne = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            num_kept(self.num_patches, self.mask_ratio)
        except ValueError as error:
            raise ConfigError(f"config.model.{error}") from None
        width, heads = self.decoder_width, self.decoder_heads
        if width % heads or width % 4:
            raise ConfigError(
                f"config.model.decoder_width: width {width} must be a multiple of 4 and of its "
                f"{heads} heads"
            )

    @property
    def num_patches(self) -> int:
        """N."""
        return math.prod(self.grid)

    @property
    def num_kept(self) -> int:
        """Patches that the encoder sees."""
        return num_kept(self.num_patches, self.mask_ratio)


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
class FederationConfig(Checked):
    """Clients, rounds and local work.

    Attributes:
        algorithm: Federated algorithm.
        aggregation: How updates become one.
        compression: How updates are compressed.
        attack: Hostile clients.
        privacy: Differential privacy.
        participation: Who takes part in a round.
        asynchronous: Training without rounds.
        rounds: Rounds of the run.
        cohort_size: Clients drawn for each round; 0 takes all.
        batch_size: B, of every client.
        local_epochs: Passes over a client's data a round; 0 where ``local_steps`` is set.
        local_steps: Local steps a round, the same for all; 0 where epochs are counted.
        partial_batch: What becomes of an epoch's last, smaller batch.
        batch_sampling: ``shuffle`` passes over a client's data in a new order each epoch;
            ``poisson`` draws each example for each step by itself, as privacy accounting wants.
        client_weights: p_k in proportion to the examples, or uniform.
        client_state: Whether the local optimiser's state is reset, persists or is averaged.
        personal: Regular expressions of the paths of parameters that stay with each client, such
            as 'head/.*' or '.*norm.*' (FedBN); the others are shared.
    """

    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    asynchronous: AsyncConfig = field(default_factory=AsyncConfig)
    rounds: AtLeastOne = 300
    cohort_size: Count = 0
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    local_epochs: Annotated[int, Range(0, 10_000)] = 1
    local_steps: Annotated[int, Range(0, 1_000_000)] = 0
    partial_batch: Literal["weight", "drop"] = "weight"
    batch_sampling: Literal["shuffle", "poisson"] = "shuffle"
    client_weights: Literal["examples", "uniform"] = "examples"
    client_state: Literal["reset", "persist", "average"] = "persist"
    personal: tuple[Annotated[str, Pattern()], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.local_epochs > 0) == (self.local_steps > 0):
            raise ConfigError(
                f"config.federation.local_epochs={self.local_epochs}, local_steps="
                f"{self.local_steps}: set one of them above 0 and the other to 0"
            )
        if self.asynchronous.concurrency:
            self._check_asynchronous()

    def _check_asynchronous(self) -> None:
        needs = {
            "algorithm.name": self.algorithm.name in ("fedavg", "fedprox", "fedsam"),
            "aggregation.rule": self.aggregation.rule == "mean",
            "compression.kind": self.compression.kind == "none",
            "attack.kind": self.attack.kind == "none",
            "privacy.level": self.privacy.level == "none",
            "personal": not self.personal,
            "client_state": self.client_state == "reset",
            "client_weights": self.client_weights == "uniform",
            "cohort_size": not self.cohort_size,
            "participation.sampling": self.participation.sampling == "uniform",
            "participation.trace": not self.participation.trace,
            "participation.step_seconds": self.participation.step_seconds > 0,
        }
        wrong = [key for key, good in needs.items() if not good]
        if wrong:
            raise ConfigError(
                f"config.federation.asynchronous.concurrency={self.asynchronous.concurrency}: "
                f"training without rounds needs another federation.{wrong[0]}; it takes fedavg, "
                "fedprox or fedsam with client_state='reset', the mean, client_weights='uniform', "
                "all clients, a clock (participation.step_seconds above 0), and nothing else"
            )


Decay = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """An optimiser.

    Attributes:
        name: ``adamw``, ``sgd``, ``adam``, ``yogi`` or ``adagrad``; for the server also
            ``fedadam``, ``fedyogi`` and ``fedadagrad`` (Reddi et al. 2021), which have no bias
            correction and whose tau is ``eps``.
        learning_rate: At its peak, for a batch of 256 where ``scale_by_batch`` says so.
        scale_by_batch: Multiply the rate by batch / 256 (Goyal et al. 2017), as MAE does.
        betas: Of Adam's kind; the first is SGD's momentum.
        eps: Of Adam's kind.
        weight_decay: Decoupled; biases, norms and tokens (fewer than two axes) are left out.
        clip_norm: Global gradient norm is clipped to this; 0 for no clipping.
        moment_dtype: Type in which adamw and adam keep the first moment. ``bfloat16`` saves a
            seventh of the bytes that an update moves, and rounds the moment at each step.
    """

    name: Literal["adamw", "sgd", "adam", "yogi", "adagrad", "fedadam", "fedyogi", "fedadagrad"] = (
        "adamw"
    )
    learning_rate: Annotated[float, Range(1e-12)] = 1.5e-4
    scale_by_batch: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Amount = 1e-8
    weight_decay: Amount = 0.05
    clip_norm: Amount = 0.0
    moment_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moment_dtype != "float32" and self.name not in ("adamw", "adam"):
            raise ConfigError(
                f"moment_dtype={self.moment_dtype!r}: name={self.name!r} keeps float32; set it, or "
                "name='adamw' or 'adam'"
            )


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """Learning-rate factor as a function of the round: linear warm-up, then half a cosine.

    Attributes:
        warmup_rounds: Rounds of linear warm-up from 0.
        min_factor: Factor at the last round.
    """

    warmup_rounds: Count = 40
    min_factor: Share = 0.0


def check_warmup(schedule: ScheduleConfig, rounds: int) -> None:
    """Refuses a warm-up longer than the run.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    if schedule.warmup_rounds > rounds:
        raise ConfigError(
            f"config.schedule.warmup_rounds={schedule.warmup_rounds}: there are {rounds} rounds; "
            "lower it"
        )


@dataclass(frozen=True)
class PlacementConfig(Checked):
    """Where clients train.

    Attributes:
        devices: Devices to use; 0 takes all.
        cpu_devices: Devices that a CPU is cut into; 0 makes one a core.
        lanes: Clients that train side by side on each device; 0 measures what is best.
        data_parallel: Devices that split each batch of a lane: for clients too large for one device
            to keep up with. It divides devices and batch size.
        chunk_steps: The most local steps of a lane that a device is sent at once with their
            images, where these do not live there; 0 chooses by the device's memory. Results do not
            depend on it. A run may stop, and be saved, after each chunk.
        memory_fraction: Share of a device's memory that a measured number of lanes may take.
        data_home: Where the images live: ``device`` memory, ``host`` memory with double
            buffering, or ``stream`` from disk.
        loader_threads: Threads that read from disk.
    """

    devices: Count = 0
    cpu_devices: Annotated[int, Range(0, 1024)] = 0
    lanes: Annotated[int, Range(0, 65_536)] = 1
    data_parallel: AtLeastOne = 1
    chunk_steps: Count = 0
    memory_fraction: Annotated[float, Range(0.01, 1)] = 0.9
    data_home: Literal["device", "host", "stream"] = "device"
    loader_threads: Annotated[int, Range(0, 1024)] = 2


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """Checkpoints.

    Attributes:
        every_rounds: Rounds between checkpoints; the last round is always saved.
        every_seconds: Save earlier if this much time has passed; 0 for never.
        keep: Last checkpoints kept, besides the best.
    """

    every_rounds: AtLeastOne = 10
    every_seconds: Amount = 600.0
    keep: AtLeastOne = 2


@dataclass(frozen=True)
class PretrainConfig(Checked):
    """Everything that decides a pretraining run."""

    name: str = "pretrain"
    seed: Seed = 0
    data: DataSettings = field(default_factory=DataSettings)
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
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_warmup(self.schedule, self.federation.rounds)


def pretrain_config() -> ConfigDict:
    """The defaults, to be changed by a configuration file."""
    return to_config_dict(PretrainConfig())


def resolve(config: ConfigDict) -> PretrainConfig:
    """Checks a configuration and returns it as typed values.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    return from_config_dict(PretrainConfig, config)


def check_clients(config: FederationConfig, num_clients: int) -> None:
    """Checks what only the data can tell.

    Raises:
        ConfigError: If a cohort is larger than the population, or a hostile client is not in it.
    """
    if config.cohort_size > num_clients:
        raise ConfigError(
            f"config.federation.cohort_size={config.cohort_size}: the data has {num_clients} "
            "clients; lower it, or use 0 for all"
        )
    unknown = [k for k in config.attack.clients if not 0 <= k < num_clients]
    if unknown:
        raise ConfigError(
            f"config.federation.attack.clients={config.attack.clients}: there is no client "
            f"{unknown[0]}; the data has {num_clients}, counted from 0"
        )
