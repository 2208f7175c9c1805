"""Rounds compiled for accelerators that are not there."""

import argparse
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure

from tools.benchmarks import compile_round
from tools.benchmarks.compile_report import HANDOVER, ROUND, STEP, zones_of
from tools.benchmarks.compile_tables import Outcome, figures
from tools.benchmarks.compile_work import Work, abstract_round, client_sizes, configuration
from tools.benchmarks.hlo import read_module
from tools.benchmarks.hlo_costs import Ceiling
from tools.benchmarks.images import random_images
from tools.benchmarks.targets import TARGETS, target_of
from ufm_jax.errors import ConfigError
from ufm_jax.objectives.reconstruction import FIELDS, init_params
from ufm_jax.train.feed import Feed
from ufm_jax.train.pretraining import federate

ROOT = Path(__file__).parents[2]
FLAGSHIP = str(ROOT / "configs" / "ultrafedfm_vit_b16.py")
TINY = (
    "model.size=xs",
    "model.image_size=32",
    "model.patch_size=8",
    "model.decoder_width=32",
    "model.decoder_depth=1",
    "model.decoder_heads=2",
    "data.working_size=37",
    "federation.batch_size=4",
)
WORK = Work(FLAGSHIP, TINY, model="", images=60, clients=5, batch_size=20, lanes=2, devices=2)


@pytest.fixture
def zones():
    return zones_of(read_module((Path(__file__).parent / "round.hlo").read_text()))


def measure(*arguments):
    parser = argparse.ArgumentParser()
    compile_round.add_options(parser)
    return compile_round.measure(parser.parse_args(arguments))


def _cheap_loss(params, batch, keys):
    """Reads all that it is given, and is traced at once: the model itself is the same anyway."""
    del keys
    pixels = sum(leaf.astype(float).reshape(len(leaf), -1).mean(1) for leaf in batch.values())
    return pixels * sum(leaf.sum() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("home", ["device", "host"])
def test_the_round_of_sizes_alone_is_the_round_that_pretraining_compiles(home):
    work = replace(WORK, changes=(*TINY, f"placement.data_home={home}"))
    ours = abstract_round(work, jax.devices()[:2], 1e9)
    config = configuration(work)
    data = random_images(client_sizes(work.clients, work.images, 4), config.data.working_size)
    federation = federate(config, data, 1e9)
    params = jax.eval_shape(partial(init_params, config.model), jax.random.key(0))
    with closing(Feed(config.placement, data, federation, FIELDS)) as feed:
        examples, plan, _, rows = feed.take(0)
        real = replace(federation, loss_fn=_cheap_loss)
        lowered = real.lower(real.state_shapes(params), examples, plan, rows)
    ours = ours._replace(federation=replace(ours.federation, loss_fn=_cheap_loss))
    assert ours.lower().as_text() == lowered.as_text()


def test_a_small_model_of_the_engine_takes_the_place_of_pretraining():
    work = replace(WORK, model="mlp", clients=7, images=300, lanes=3)
    ours = abstract_round(work, jax.devices()[:2], 1e9)
    assert ours.federation.placement.lanes == 3
    assert ours.examples["x"].shape == (int(client_sizes(7, 300, 20).sum()), 784)
    assert "while" in ours.lower().as_text()


@pytest.mark.parametrize(("clients", "images", "batch"), [(16, 10**6, 64), (1024, 102400, 20)])
def test_clients_have_whole_batches_and_the_images_that_were_asked_for(clients, images, batch):
    sizes = client_sizes(clients, images, batch)
    assert len(sizes) == clients
    assert (sizes >= batch).all()
    assert not (sizes % batch).any()
    assert sizes.sum() == pytest.approx(images, rel=0.05)


def test_options_and_changes_reach_the_configuration():
    config = configuration(replace(WORK, changes=("config.model.size=s", "model.dtype=float32")))
    assert (config.model.size, config.model.dtype) == ("s", "float32")
    assert (config.placement.lanes, config.placement.devices) == (2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"changes": ("model.sise=b",)}, "did you mean config.model.size"),
        ({"changes": ("model.size",)}, "write KEY=VALUE"),
        ({"changes": ("model.size=q",)}, "config.model.size"),
        ({"config": "configs/none.py"}, "no such file"),
    ],
)
def test_a_wrong_configuration_is_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        configuration(replace(WORK, **change))


def test_kernels_and_host_reads_are_sorted_by_how_often_they_happen(zones):
    costs = zones.costs(TARGETS["h200"].ceiling)
    # A step: the condition, 12 layers of a condition and a product, the predicate, the two
    # negations of its dearest branch, a product.
    assert costs[STEP].kernels == 1 + 12 * 2 + 1 + 2 + 1
    # A client: a copy and its condition around the steps.
    assert costs[HANDOVER].kernels == 2
    # A round: a product and two messages.
    assert costs[ROUND].kernels == 3
    # A condition is read at each turn and when the loop ends, a predicate once.
    assert dict(zones.host_reads) == {STEP: 1 + 1, HANDOVER: 1 + 2 + 1, ROUND: 1}


def test_the_mean_step_carries_its_share_of_starts_and_ends(zones):
    ceiling = Ceiling(1e9, {"f32": 1e11})
    step, client, rest = zones.costs(ceiling).values()
    mean = zones.mean_step(steps=10, handovers=4, ceiling=ceiling)
    for name in ("kernels", "bytes", "flops", "seconds"):
        expected = getattr(step, name) + 0.4 * getattr(client, name) + 0.1 * getattr(rest, name)
        assert getattr(mean, name) == pytest.approx(expected), name


def _answer(**changes):
    memory = {"images": 10e9, "client states": 5e9, "working memory": 1e9}
    sizes = {"batch": 64, "groups": 2, "steps": 10, "handovers": 4, "images": 1000}
    times = {"trace s": 1.0, "compile s": 2.0}
    return {"memory": memory, **sizes, **times, **changes}


def test_a_row_says_what_fits_and_what_can_be_reached(zones):
    (row,) = figures([Outcome("h200", 2, 4, answer=_answer(), zones=zones)]).rows
    assert row["memory GB"] == 16
    assert row["of device"] == pytest.approx(16e9 / target_of("h200").memory, abs=1e-3)
    step = zones.costs(target_of("h200").ceiling)[STEP]
    assert row["images/s"] == round(64 * 4 * 2 / step.seconds)
    assert row["round images/s"] < row["images/s"]


def test_all_rows_have_the_same_columns_whatever_became_of_a_target(zones):
    found = figures(
        [
            Outcome("h100", 1, 1, reason="RESOURCE_EXHAUSTED: 100 GB"),
            Outcome("h200", 1, 1, answer=_answer(), zones=zones),
            Outcome("v5e:2x2", 4, 1, answer=_answer(), zones=zones),
            Outcome("v5p:2x2x1", 4, 1, answer=_answer(), unread="RET_CHECK"),
        ]
    )
    assert len({tuple(row) for row in found.rows}) == 1
    assert [row["compiles"] for row in found.rows] == ["no", "yes", "yes", "yes"]
    assert [row["kernels"] == "-" for row in found.rows] == [True, False, True, True]
    assert found.more["does not compile"][0]["reason"] == "RESOURCE_EXHAUSTED: 100 GB"
    assert found.more["text that cannot be read"][0]["why"] == "RET_CHECK"
    found.draw(Figure().add_subplot())


def test_a_target_without_a_compiler_is_said_and_the_others_go_on(monkeypatch):
    def fail(target):
        raise RuntimeError(f"compile-{target.platform}: pip could not install jax:\nno network")

    monkeypatch.setattr(compile_round, "environment_of", fail)
    found = measure("--target", "h200", "v5e:2x2", "--set", *TINY)
    assert [row["compiles"] for row in found.rows] == ["no", "no"]
    assert [row["reason"] for row in found.more["does not compile"]] == [
        "compile-cuda: pip could not install jax: no network",
        "compile-tpu: pip could not install jax: no network",
    ]
    found.draw(Figure().add_subplot())


@pytest.mark.parametrize("arguments", [("--lanes", "0"), ("--images", "-1"), ("--target", "x")])
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        measure(*arguments)
    assert f"argument {arguments[0]}: '{arguments[1]}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["h300", "h200:2x2", "v5e", ""])
def test_an_unknown_target_is_refused(name):
    with pytest.raises(ValueError, match="known: h100, h200, b200, v5e:2x2"):
        target_of(name)


@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_a_gpu_is_described_to_its_compiler(name):
    text = target_of(name).text_proto()
    assert f"device_memory_size: {int(TARGETS[name].memory)}" in text
    assert "{}" not in text
    assert text.count("{") == text.count("}")


def compiled_row(found):
    """The one row of a program that compiles; skips where its compiler cannot be had."""
    (row,) = found.rows
    if row["compiles"] == "no" and "pip could not install" in str(found.more):
        pytest.skip(found.more["does not compile"][0]["reason"])
    assert row["compiles"] == "yes", found.more
    return row


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h200", "v5e:2x2", "v5p:2x2x1"])
def test_a_tiny_round_compiles(target, monkeypatch, tmp_path):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # The tests' own ask for quick programs.
    devices = "1" if target == "h200" else "4"
    text = tmp_path / "round.hlo"
    found = measure(
        *("--target", target, "--devices", devices, "--images", "200", "--clients", "8"),
        *("--hlo", str(text), "--set", *TINY, "placement.data_home=device"),
    )
    row = compiled_row(found)
    assert row["memory GB"] > 0
    assert row["of device"] < 1
    if target == "h200":
        assert row["images/s"] > 0
        assert found.more["how often, h200, devices 1, lanes 1"][0]["kernels"] > 50
    assert "ENTRY" in text.read_text()


@pytest.mark.slow
def test_fused_attention_over_197_tokens_compiles_in_two_lanes(monkeypatch, tmp_path):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    text = tmp_path / "round.hlo"
    found = measure(
        *("--target", "h200", "--devices", "1", "--lanes", "2", "--images", "200"),
        *("--clients", "8", "--hlo", str(text), "--set", *TINY, "placement.data_home=device"),
        *("model.image_size=224", "model.patch_size=16", "model.dtype=bfloat16"),
    )
    compiled_row(found)
    fused = [line for line in text.read_text().splitlines() if "fmhaSoftmaxBackward" in line]
    assert any(",198," in line for line in fused)  # 197, and one that fills.
