"""Configuration: one line that names key, value and remedy, before anything is computed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from ufm_jax.config.compatibility import check_clients
from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.finetuning import finetune_config, resolve_finetune
from ufm_jax.config.pretraining import PretrainConfig, pretrain_config, resolve
from ufm_jax.config.schema import ListParser, flatten, to_config_dict
from ufm_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = [
    path
    for path in sorted((ROOT / "configs").glob("*.py"))
    if "pretrain_config()" in path.read_text(encoding="utf-8")
]


def _resolved(**changes):
    config = pretrain_config()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return resolve(config)


def test_the_defaults_are_the_schemas():
    assert resolve(pretrain_config()) == PretrainConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__patch_size": 15}, r"config\.model\.patch_size=15: .*image_size=224.* one of"),
        ({"model__mask_ratio": 0.999}, r"model\.mask_ratio=0\.999 must keep at least one of 196"),
        ({"model__mask_ratio": 1}, r"config\.model\.mask_ratio=1\.0"),
        ({"model__size": "xl"}, r"config\.model\.size='xl': choose one of 'xs'"),
        ({"model__image_size": 224.0}, r"config\.model\.image_size=224\.0: expected int"),
        ({"model__remat": 1}, r"config\.model\.remat=1: expected bool"),
        ({"model__decoder_heads": 7}, r"config\.model\.decoder_width: width 512 .* 7 heads"),
        ({"federation__cohort": 3}, r"federation\.cohort=3: unknown key; did you mean .*cohort_si"),
        ({"federation__local_steps": 4}, r"local_epochs=1, local_steps=4: set one of them"),
        ({"augment__degrade": 1.5}, r"config\.augment\.degrade=1\.5: use a number from 0 to 1"),
        ({"augment__crop_area": (0.5, 0.2)}, r"crop_area=\(0\.5, 0\.2\): give the least first"),
        ({"augment__crop_area": 0.5}, r"crop_area=0\.5: give a tuple"),
        ({"schedule__warmup_rounds": 999}, r"warmup_rounds=999: there are 300 rounds"),
        ({"placement__lanes": -1}, r"config\.placement\.lanes=-1"),
        ({"client_optimizer__clip_norm": -1.0}, r"config\.client_optimizer\.clip_norm=-1\.0: use"),
        ({"client_optimizer__learning_rate": -1.0}, r"client_optimizer\.learning_rate=-1\.0: use"),
        (
            {"server_optimizer__betas": (1.5, 0.9)},
            r"server_optimizer\.betas\[0\]=1\.5: use a number from 0 to below 1",
        ),
        ({"schedule__min_factor": 1.5}, r"config\.schedule\.min_factor=1\.5: use"),
        ({"data__source": "folders"}, r"config\.data: source 'folders' needs `root`"),
    ],
)
def test_a_wrong_value_is_an_error_of_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        _resolved(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("train,val", ("train", "val")),
        ("train, val", ("train", "val")),
        ("train", ("train",)),
        ("(train,val)", ("train", "val")),
        ("[train, val]", ("train", "val")),
        ("('train', 'val')", ("train", "val")),
        ("['train']", ("train",)),
        ("('a,b', 'c')", ("a,b", "c")),
        ("'a,b',", ("a,b",)),
        ("breast:5,thyroid:6", ("breast:5", "thyroid:6")),
        ("#ff0000:vessel,1:liver", ("#ff0000:vessel", "1:liver")),
        ("a b,c-d", ("a b", "c-d")),
        ("01,02", ("01", "02")),
        ("head/.*,.*norm.*", ("head/.*", ".*norm.*")),
        ("(head|norm)/.*", ("(head|norm)/.*",)),
        ("", ()),
        ("()", ()),
        ("0.1,0.5", (0.1, 0.5)),
        ("(1, 2)", (1, 2)),
        (("kept", "as it is"), ("kept", "as it is")),
    ],
)
def test_a_list_of_the_command_line_is_read_with_and_without_brackets(text, entries):
    assert ListParser().parse(text) == entries


@pytest.mark.parametrize("text", ["'a,b',c", "('train',val)", 'a,"b'])
def test_a_list_that_is_quoted_in_part_is_refused(text):
    with pytest.raises(ValueError, match="put each entry in quotes, or none"):
        ListParser().parse(text)


def test_ml_collections_reads_tuples_with_our_parser(monkeypatch):
    given = ["--config.data.splits=train,val", "--config.augment.crop_area=0.1,0.5"]
    given += ["--config.data.index=a.csv", "--config.data.index=b.csv"]
    monkeypatch.setattr(sys, "argv", ["command", *given])
    values, config = flags.FlagValues(), pretrain_config()
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(sys.argv)
    read = resolve(config)
    assert read.data.splits == ("train", "val")
    assert read.augment.crop_area == (0.1, 0.5)
    assert read.data.index == ("a.csv", "b.csv")


def test_text_in_the_place_of_a_list_is_refused_with_the_list():
    with pytest.raises(ConfigError, match=r"splits='train,val': give .* \('train', 'val'\)"):
        _resolved(data__splits="train,val")


def test_a_section_cannot_be_a_value():
    config = pretrain_config()
    config.model = 3
    with pytest.raises(ConfigError, match=r"config\.model=3: it is a section"):
        resolve(config)


def test_a_configuration_of_the_other_command_is_an_error_of_one_short_line():
    for resolved, config in ((resolve, finetune_config()), (resolve_finetune, pretrain_config())):
        with pytest.raises(ConfigError, match="unknown key; ") as caught:
            resolved(config)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


def test_integers_serve_as_floats_and_lists_as_tuples():
    config = _resolved(augment__flip=1, augment__crop_area=[1, 1])
    assert config.augment.flip == 1.0
    assert config.augment.crop_area == (1.0, 1.0)


def test_a_cohort_larger_than_the_population_is_refused():
    config = PretrainConfig(federation=FederationConfig(cohort_size=17))
    with pytest.raises(ConfigError, match=r"cohort_size=17: the data has 16 clients"):
        check_clients(config.federation, 16)


def test_flatten_names_every_leaf():
    leaves = flatten(PretrainConfig())
    assert leaves["config.model.patch_size"] == 16
    assert leaves["config.seed"] == 0
    assert not any(hasattr(value, "__dataclass_fields__") for value in leaves.values())


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_every_shipped_configuration_resolves(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if "root" in config.data and config.data.source != "synthetic":
        config.data.root = config.data.root or "somewhere"
    assert resolve(config).name == path.stem
    assert f"configs/{path.name}" in module.__doc__, "the docstring gives the command"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.patch_size=15", "config.model.patch_size=15"),
        ("--config.model.patchsize=8", "patchsize"),
        ("--config.federation.cohort_size=many", "cohort_size"),
        ("--config.federation.cohort_size=99", "cohort_size=99: the data has 16 clients"),
        ("--config.placement.devices=99", "placement.devices=99: this machine has"),
        ("--config=configs/nowhere.py", "configs/nowhere.py: no such file"),
        ("--config=configs/pretrain_sites.py:two", "choose folders, public, held_out or shipped"),
    ],
)
def test_the_command_line_says_it_in_one_line(tmp_path, flag, message):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ufm_jax.pretrain",
            f"--config={ROOT / 'configs' / 'quickstart.py'}",
            f"--workdir={tmp_path / 'run'}",
            flag,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip()]) <= 2, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_config_dict_keeps_sections_apart():
    config = to_config_dict(PretrainConfig())
    config.model.size = "s"
    assert PretrainConfig().model.size == "b"
