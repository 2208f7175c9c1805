"""What cannot be meant is refused before anything is read."""

import runpy
from pathlib import Path

import pytest

from ufm_jax.config.finetuning import finetune_config, resolve_finetune
from ufm_jax.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


UNIFORM = {"federation.client_weights": "uniform"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_fraction": 0.0}, r"config\.label_fraction=0\.0"),
        ({"layer_decay": 1.5}, r"config\.layer_decay=1\.5"),
        ({"data.kind": "segment", "method": "linear_probe"}, "method='frozen'"),
        ({"data.kind": "segment", "augment.mixing.mixup": 0.8}, "masks cannot be blended"),
        (
            {"federation.privacy.level": "example", "augment.mixing.cutmix": 1.0},
            "images cannot be mixed",
        ),
        (
            UNIFORM | {"federation.privacy.level": "client", "loss.class_weights": 0.5},
            "counted without noise",
        ),
        (
            UNIFORM | {"federation.privacy.level": "client", "method": "linear_probe"},
            "adds no noise",
        ),
        ({"method": "knn_probe", "federation.training": "local"}, "trains nothing in rounds"),
        ({"start.head": "probe", "federation.training": "local"}, "takes all features at once"),
        ({"start.head": "probe", "data.kind": "segment"}, "of a diagnosis"),
        ({"start.head": "probe", "federation.privacy.level": "example"}, "adds no noise"),
        ({"federation.personal": ("head/.*",)}, "it is for training='federated'"),
        ({"evaluation.select": "dice"}, "does not fit config.data.kind='single'"),
        ({"evaluation.measurement": "head_circumference"}, "is taken on masks"),
        ({"evaluation.sensitivity": 0.0}, r"config\.evaluation\.sensitivity"),
        ({"model.patch_size": 15}, r"config\.model\.patch_size=15"),
        ({"placement.lanes": 0}, "measuring is for pretraining"),
        ({"schedule.warmup_rounds": 99}, "there are 50 rounds"),
        ({"augment.moves.degrees": 400.0}, r"config\.augment\.moves\.degrees=400\.0"),
        ({"data.source": "lists", "data.root": "x"}, "source 'lists' knows no labels"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    config = finetune_config()
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[name] = value
    with pytest.raises(ConfigError, match=message):
        resolve_finetune(config)


@pytest.mark.parametrize(
    ("name", "task"),
    [("finetune", "diagnosis"), ("finetune", "segmentation")]
    + [
        ("finetune_public", task)
        for task in (
            "busi_diagnosis",
            "busi_segmentation",
            "pocus_diagnosis",
            "gb_diagnosis",
            "hc18_circumference",
        )
    ],
)
def test_every_configuration_resolves(name, task):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](task)
    config.data.root = "FOLDER"
    assert resolve_finetune(config).name == task
