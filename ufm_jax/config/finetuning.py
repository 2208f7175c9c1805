"""What can be configured in fine-tuning, evaluation and prediction: keys, types and meanings.

Configuration files build on ``finetune_config()``; ``resolve`` checks the result once and returns
plain typed values.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ml_collections import ConfigDict

from ufm_jax.config.compatibility import check_finetuning
from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import EncoderConfig
from ufm_jax.config.schema import from_config_dict, to_config_dict
from ufm_jax.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.models.classifier import Pool
from ufm_jax.models.segmenter import DecoderName
from ufm_jax.ops.joint import Moves
from ufm_jax.ops.mixing import Mixing
from ufm_jax.ops.ultrasound import UltrasoundStrengths
from ufm_jax.ranges import Amount, AtLeastOne, Checked, Count, Part, Range, Share


@dataclass(frozen=True)
class StartConfig(Checked):
    """What training starts from.

    Attributes:
        weights: '' for random; ``ufm_ti16``, which comes with the project; the folder of a run of
            ours, or of exported parameters; a .pth or .safetensors file of UltraFedFM, MAE or timm.
        part: The entry of a PyTorch checkpoint to take, such as 'model'; '' finds it.
        head: Diagnosis: the head begins ``new``, all but zero, or as the ``probe`` of the encoder,
            a logistic regression on the features of the training images, whose strength the
            validation split chooses (Kumar et al. 2022): then fine-tuning begins where the linear
            probe ends. For ``training='centralised'``.
        antialias: How position embeddings are resampled; see ``interop.resample``.
    """

    weights: str = ""
    part: str = ""
    head: Literal["new", "probe"] = "new"
    antialias: bool = True


@dataclass(frozen=True)
class NetworkConfig(EncoderConfig):
    """Encoder and head; further keys are the encoder's, whose size must be that of the weights.

    Attributes:
        pool: Diagnosis: the head sees the mean of the patch tokens, or the class token.
        decoder: Segmentation: see ``models.segmenter``.
        decoder_width: Segmentation: its channels at the tokens' grid.
        learned_position: Whether the position embedding is a parameter.
        drop_path: Stochastic depth of the last block.
    """

    pool: Pool = "mean"
    decoder: DecoderName = "unet"
    decoder_width: Annotated[int, Range(1, 16_384)] = 128
    learned_position: bool = False
    drop_path: Annotated[float, Range(0, 0.9)] = 0.1


@dataclass(frozen=True)
class TrainingViewConfig(Checked):
    """Augmentation of the training images, on the device.

    Attributes:
        moves: Crop, turn, zoom and mirror; of a mask too.
        ultrasound: The scanner's knobs, in the place of colour operations made for photographs.
        mixing: Mixup and cutmix; for segmentation cutmix alone.
        erase: Diagnosis: probability of random erasing.
    """

    moves: Moves = field(default_factory=Moves)
    ultrasound: UltrasoundStrengths = field(default_factory=UltrasoundStrengths)
    mixing: Mixing = field(default_factory=Mixing)
    erase: Share = 0.25


@dataclass(frozen=True)
class LossConfig(Checked):
    """The loss.

    Attributes:
        label_smoothing: Single labels: probability spread over all classes.
        class_weights: Power to which the weights that make up for unequal class frequencies are
            raised: 0 for none, 1 in full. They are those of the training split.
        dice_weight: Segmentation: weight of the Dice loss beside the cross entropy.
    """

    label_smoothing: Annotated[float, Range(0, 0.99)] = 0.1
    class_weights: Share = 0.0
    dice_weight: Amount = 1.0


@dataclass(frozen=True)
class FinetuneFederationConfig(FederationConfig):
    """Who trains together: keys as for pretraining, with the usual values of fine-tuning."""

    training: Literal["federated", "centralised", "local"] = "centralised"
    rounds: AtLeastOne = 50
    batch_size: Annotated[int, Range(1, 65_536)] = 32


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """How a model is chosen and judged.

    Attributes:
        select: What the round is chosen by, on the validation split; 'auto' is 'auroc' for
            diagnosis and 'pooled_dice' (of all images' pixels together) for segmentation. 'last'
            takes the last round, and needs no
            validation split.
        every_rounds: Rounds between looks at the validation split; the last round has one.
        batch_size: Images a forward pass.
        mirror: Average the predictions for the picture and its mirror image.
        positive: Diagnosis of two classes: the class looked for; '' for the second.
        threshold: Diagnosis of two classes: 'youden' and 'sensitivity' choose it on the validation
            split; 'half' is 0.5.
        sensitivity: What ``threshold='sensitivity'`` asks for.
        least_component: Segmentation: connected regions of fewer pixels of the original image are
            removed; 0 keeps all.
        measurement: Segmentation: what is measured on the masks: '' for nothing.
        measured_class, second_class: Names of the measured class (the head; for the angle the
            symphysis) and for the angle of the head; '' for the first, and the second.
        reference_key: Column or key of the notes that holds the true measurement.
        outline: See ``evaluation.biometry``.
        replicates: Bootstrap resamples over groups; 0 for no intervals.
    """

    select: Literal["auto", "auroc", "balanced_accuracy", "dice", "pooled_dice", "last"] = "auto"
    every_rounds: AtLeastOne = 1
    batch_size: Annotated[int, Range(1, 4096)] = 64
    mirror: bool = False
    positive: str = ""
    threshold: Literal["youden", "sensitivity", "half"] = "youden"
    sensitivity: Annotated[float, Range(0.01, 1)] = 0.9
    least_component: Count = 0
    measurement: Literal["", "head_circumference", "angle_of_progression"] = ""
    measured_class: str = ""
    second_class: str = ""
    reference_key: str = "HC_mm"
    outline: Literal["edges", "pixels"] = "edges"
    replicates: Annotated[int, Range(0, 1_000_000)] = 2000


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Everything that decides a fine-tuning run.

    Attributes:
        method: ``finetune`` trains encoder and head; ``frozen`` the head alone, by the same loop;
            ``linear_probe`` fits a logistic regression, and ``knn_probe`` looks up the nearest
            training images, on features of the encoder as it is (diagnosis).
        label_fraction: Share of the training split whose labels are used: nested, by class, in
            whole groups.
        layer_decay: Factor on the learning rate from a layer to the one below.
    """

    name: str = "finetune"
    method: Literal["finetune", "frozen", "linear_probe", "knn_probe"] = "finetune"
    label_fraction: Part = 1.0
    layer_decay: Part = 0.75
    data: LabelSettings = field(default_factory=LabelSettings)
    start: StartConfig = field(default_factory=StartConfig)
    model: NetworkConfig = field(default_factory=NetworkConfig)
    augment: TrainingViewConfig = field(default_factory=TrainingViewConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    federation: FinetuneFederationConfig = field(default_factory=FinetuneFederationConfig)
    client_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.999))
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(warmup_rounds=5, min_factor=1e-3)
    )
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finetuning(self)


def finetune_config() -> ConfigDict:
    """The defaults, to be changed by a configuration file."""
    return to_config_dict(FinetuneConfig())


def resolve_finetune(config: ConfigDict) -> FinetuneConfig:
    """Checks a configuration and returns it as typed values.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    return from_config_dict(FinetuneConfig, config)
