"""What can be configured of any training: method, optimisers, schedule, devices, checkpoints."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ufm_jax.config.compatibility import check_training
from ufm_jax.config.federation import FederationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.ranges import Amount, AtLeastOne, Checked, Count, Range, Seed, Share

Decay = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """An optimiser.

    Attributes:
        name: ``adamw``, ``sgd``, ``adam``, ``yogi``, ``adagrad`` or ``muon`` (Jordan 2024: the
            momentum of the blocks' matrices is made orthogonal; the other parameters take NAdam's
            steps, and all steps have one size); for the server also ``fedadam``, ``fedyogi`` and
            ``fedadagrad`` (Reddi et al. 2021), which have no bias correction and whose tau is
            ``eps``.
        learning_rate: At its peak, for a batch of 256 where ``scale_by_batch`` says so.
        scale_by_batch: Multiply the rate by batch / 256 (Goyal et al. 2017), as MAE does.
        betas: Of Adam's kind; the first is also the momentum of SGD and Muon.
        nesterov: Whether SGD's momentum looks ahead (Nesterov 1983).
        eps: Of Adam's kind.
        weight_decay: Decoupled; biases, norms and tokens (fewer than two axes) are left out.
        clip_norm: Global gradient norm is clipped to this; 0 for no clipping.
        moment_dtype: Type in which adamw and adam keep the first moment. ``bfloat16`` saves a
            seventh of the bytes that an update moves, and rounds the moment at each step.
    """

    name: Literal[
        "adamw", "sgd", "adam", "yogi", "adagrad", "muon", "fedadam", "fedyogi", "fedadagrad"
    ] = "adamw"
    learning_rate: Annotated[float, Range(1e-12)] = 1.5e-4
    scale_by_batch: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    nesterov: bool = False
    eps: Amount = 1e-8
    weight_decay: Amount = 0.05
    clip_norm: Amount = 0.0
    moment_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.name != "sgd" or not self.betas[0]):
            raise ConfigError(
                f"nesterov=True with name={self.name!r}, betas={self.betas}: it is a form of SGD's "
                "momentum; set name='sgd' and betas=(0.9, 0.0), or nesterov=False"
            )
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
        side: Whose learning rate it is: the ``clients``', at each local step, or the ``server``'s,
            at each round. An adaptive server divides out what makes all updates smaller, so that
            under it only its own rate can fall.
        patience: Training ends when so many rounds have brought no better model, by the images
            that are held out or by the validation split; 0 for never. The best one is then taken.
    """

    warmup_rounds: Count = 40
    min_factor: Share = 0.0
    side: Literal["clients", "server"] = "clients"
    patience: Count = 0


@dataclass(frozen=True)
class PlacementConfig(Checked):
    """Where clients train.

    Attributes:
        devices: Devices to use; 0 takes all.
        cpu_devices: Devices that a CPU is cut into; 0 makes one a core.
        lanes: Clients that train side by side on each device; 0 measures what is best.
        data_parallel: Devices that split each batch of a lane: for clients too large for one device
            to keep up with. It divides devices and batch size.
        chunk_steps: The most local steps of a lane in one dispatch; a longer round is cut into
            several. 0 takes whole rounds where the images live on the device, and elsewhere as many
            steps as a device's memory allows. Results do not depend on it. A run may stop, and be
            saved, after each chunk.
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
class TrainingConfig(Checked):
    """What decides any run of training in rounds.

    Attributes:
        name: Title of the report.
        seed: Everything random is folded from it.
        tracking: What gets the scalars of each round beside metrics.jsonl; see docs/commands.md.
        tracking_project: MLflow's experiment and W&B's project.
        tracking_store: MLflow: address of a server or database; '' takes MLFLOW_TRACKING_URI, else
            ``mlflow.db`` beside the run's folder.
    """

    name: str = "run"
    seed: Seed = 0
    tracking: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    tracking_project: str = "ufm_jax"
    tracking_store: str = ""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_training(self)
