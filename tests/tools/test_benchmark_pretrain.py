"""What `benchmark pretrain` measures is what it says: images, shares, ceilings, and parity."""

import argparse
import json
import py_compile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tools.benchmarks import breakdown, ceiling, output, pretrain, published, workload
from tools.benchmarks.compiling import compile_twice
from tools.benchmarks.images import Images, dealt, opened_images, random_images, sample_counts
from tools.benchmarks.measure import rates, share_saved
from tools.benchmarks.workload import Workload, run_config
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig
from ufm_jax.fed.placement import make_placement
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_from_torch
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.objectives import reconstruction
from ufm_jax.train import pretraining

ROOT = Path(__file__).resolve().parents[2]
SETS = ("busi_breast", "hc18_fetal_head", "gb_biliary_atresia", "pocus_lung", "rus_abdomen")


def _options(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int)
    pretrain.add_options(parser)
    small = ["--image_size=16", "--patch_size=8", "--batch_size=2", "--repeats=2", "--no-breakdown"]
    tiny = ["--size", "xs", "--decoder", "8", "1", "2", "--images=64"]
    return parser.parse_args([*small, *tiny, *arguments])


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling takes most of these tests' time, and nothing here runs long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def small_matrices():
    before = ceiling.SIDES
    ceiling.SIDES = (32,)
    yield
    ceiling.SIDES = before


@pytest.fixture(scope="module", autouse=True)
def small_models():
    """The smallest encoder is made smaller still."""
    before = reconstruction.SIZES
    reconstruction.SIZES = {"xs": EncoderSize(width=8, depth=1, heads=2)}
    yield
    reconstruction.SIZES = before


@pytest.fixture
def quick_objective(monkeypatch):
    """A model of three numbers, whose round compiles at once."""

    def loss_fn(params, batch, keys):
        del keys
        pixels = batch["image"].astype(float).mean(axis=(1, 2, 3))
        return (params["w"].sum() - pixels / 255) ** 2

    monkeypatch.setattr(pretraining, "make_loss", lambda *_: loss_fn)
    monkeypatch.setattr(workload, "init_params", lambda *_: {"w": np.zeros(3, np.float32)})


SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=12).map(np.array)


@given(SIZES, st.integers(0, 500), st.integers(1, 16))
def test_a_sample_has_whole_batches_of_every_client_and_no_more_than_there_is(sizes, images, batch):
    counts = sample_counts(sizes, images, batch)
    assert (counts >= 1).all()
    assert (counts <= sizes).all()
    assert ((counts % batch == 0) | (counts == sizes)).all()
    assert images or (counts == sizes).all()


def test_a_sample_keeps_the_proportions_of_clients():
    counts = sample_counts(np.array([100, 200, 700]), 100, 10)
    np.testing.assert_array_equal(counts, [10, 20, 70])


def test_dealt_clients_are_equal_and_have_the_images_in_turn():
    data = random_images(np.array([3, 2]), 8)
    read = dealt(data, 4, 2)
    assert read.sizes.tolist() == [2, 2, 2, 2]
    rows = np.array([7, 0, 4])
    np.testing.assert_array_equal(
        read.store.read(rows)["image"], data.store.read(rows % 5)["image"]
    )


@pytest.fixture
def five_sets(tmp_path):
    """Five sets laid out as the preset expects them, 8 grey images in each."""
    rng = np.random.default_rng(0)
    for name in SETS:
        (tmp_path / name / "images").mkdir(parents=True)
        lines = ["image,group,label"]
        for i in range(8):
            file = f"images/{i}.png"
            pixels = rng.integers(0, 255, (20, 24), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / file)
            lines.append(f"{file},{i},a")
        (tmp_path / name / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_both_sides_read_the_same_real_images(five_sets, tmp_path):
    options = _options(f"--data={five_sets}", f"--cache_dir={tmp_path / 'cache'}", "--images=32")
    for state in ("decoded, once", "found decoded in the cache"):
        with opened_images(options) as images:
            assert state in images.note
            paths = images.list_file.read_text(encoding="utf-8").split()
            assert images.data.num_clients == 16
            assert len(set(paths)) == len(paths) == images.data.num_rows
            first = np.asarray(Image.open(images.root / paths[0]).resize((18, 15)))
            row = images.data.store.read(np.arange(1))
            assert row["extent"].tolist() == [[15, 18]]
            ours = row["image"][0, :15, :18, 0].astype(float)
            assert np.corrcoef(ours.ravel(), first.ravel())[0, 1] > 0.8
    assert not images.list_file.exists()


@pytest.mark.parametrize("home", ["device", "host", "stream"])
@pytest.mark.usefixtures("quick_objective")
def test_a_round_trains_on_every_image_and_counts_it(home):
    data = random_images(np.array([4, 2, 6]), 20)
    with closing(Workload(run_config(_options(), "xs", 1, home), data)) as work:
        assert work.images == 12
        for _ in range(2):
            before = np.asarray(work.state.server.params["w"])
            work.run()
        assert (np.asarray(work.state.server.params["w"]) > before).all()
        assert work.rounds == len(work.host_seconds) == 2


@pytest.mark.usefixtures("quick_objective")
def test_a_row_has_a_round_against_a_ceiling_taken_next_to_it(monkeypatch):
    flops = 1000  # Of a model that is not run.
    monkeypatch.setattr(pretrain, "image_flops", lambda _: flops)
    options = _options("--data_home", "host")
    figures = pretrain.measure(options)
    (row,) = figures.rows
    assert (row["size"], row["lanes"], row["home"]) == ("xs", 1, "host")
    assert row["from"] <= row["images/s"] <= row["to"]
    assert row["GFLOP/s"] == pytest.approx(row["images/s"] * flops / 1e9, rel=0.02, abs=0.1)
    assert row["utilisation"] <= 1
    assert row["compile s"] > 0
    assert row["compiled MB"] >= 0
    assert 0 < row["useful"] <= 1
    assert "random pixels" in figures.notes[0]


def test_the_published_side_meets_the_settings_of_ours_that_were_fastest(tmp_path, monkeypatch):
    met = []

    def compare(options, images, configs):
        met.extend(configs)
        return [{"side": "theirs"}], ("about",)

    def sweep(options, images):
        for lanes, home, share in ((1, "device", 0.3), (2, "host", 0.5), (4, "stream", 0.4)):
            yield {"size": "xs", "lanes": lanes, "home": home, "utilisation": share}

    monkeypatch.setattr(published, "compare", compare)
    monkeypatch.setattr(published, "check_options", lambda _: None)
    monkeypatch.setattr(pretrain, "_sweep", sweep)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    figures = pretrain.measure(_options(f"--published={tmp_path}"))
    assert [(c.model.size, c.placement.lanes, c.placement.data_home) for c in met] == [
        ("xs", 2, "host")
    ]
    assert figures.more["published"] == [{"side": "theirs"}]
    assert figures.notes[-1] == "about"


@pytest.mark.usefixtures("quick_objective")
def test_compiling_a_second_time_reads_the_cache_and_leaves_the_setting_alone():
    events = []

    def listen(event, **_):
        events.append(event)

    jax.monitoring.register_event_listener(listen)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with closing(Workload(run_config(_options(), "xs", 1), random_images(np.full(8, 2), 20))) as w:
        events.clear()
        compiled = compile_twice(w)
    assert [getattr(jax.config, name) for name in names] == before
    hits = [event for event in events if event == "/jax/compilation_cache/cache_hits"]
    assert hits
    assert compiled.device_bytes > 0


def test_the_ceiling_counts_the_products_of_all_devices():
    one, eight = (ceiling.Ceiling(make_placement(devices), "float32") for devices in (1, 8))
    assert one.flops == 2 * 32**3 * 8
    assert eight.flops == 8 * one.flops
    assert one.run() > 0


def test_the_ceiling_is_that_of_the_fastest_shape_and_of_its_fastest_run(monkeypatch):
    squares, model = ceiling.Shape(32, 32, 32), ceiling.Shape(16, 8, 32)
    for seconds, fastest in (
        ((3.0, 2.0, 2.5, 1.0, 1.0, 1.0), squares),
        ((9.0,) * 3 + (0.5,) * 3, model),
    ):
        times = iter((*seconds, 0.25))
        monkeypatch.setattr(ceiling, "timed", lambda _, times=times: lambda: next(times))
        top = ceiling.Ceiling(make_placement(1), "float32", [model])
        assert top.shape == fastest
        assert top.best == top.flops / min(seconds[:3] if fastest == squares else seconds[3:])
        top.run()
        assert top.best == top.flops / 0.25


def test_the_models_own_products_are_among_the_shapes():
    model = ModelConfig(size="b", image_size=224, patch_size=16)
    assert ceiling.model_shapes(model, 2) == [(100, 768, 3072), (394, 512, 2048)]


def test_a_utilisation_above_one_is_an_error_of_the_harness():
    top = ceiling.Ceiling(make_placement(1), "float32")
    assert ceiling.utilisation(top.best / 2, top) == 0.5
    with pytest.raises(RuntimeError, match="above the ceiling"):
        ceiling.utilisation(1.01 * top.best, top)


def test_without_augmentation_the_objective_sees_the_same_and_gives_the_same_loss():
    model = run_config(_options(), "xs", 1).model
    still = AugmentConfig((1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0)
    batch = random_images(np.array([3]), 16).store.read(np.arange(3))
    keys = jax.random.split(jax.random.key(1), 3)
    params = reconstruction.init_params(model, jax.random.key(0))
    losses = [
        jax.jit(loss)(params, batch, keys)
        for loss in (breakdown.plain_loss(model), reconstruction.make_loss(model, still))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_images_stored_too_small_for_a_round_without_augmentation_are_refused():
    model = run_config(_options(), "xs", 1).model
    batch = random_images(np.array([2]), 12).store.read(np.arange(2))
    with pytest.raises(ValueError, match="raise --working_size"):
        breakdown.plain_loss(model)({}, batch, jax.random.split(jax.random.key(0), 2))


def test_shares_are_what_rounds_are_shorter_by_and_aggregation_counts_all_clients(monkeypatch):
    names = (breakdown.WHOLE, breakdown.OPTIMISER, breakdown.AGGREGATION)
    taken = dict(zip(names, ([2.0, 4.0], [1.5, 3.0], [1.4, 2.8]), strict=True))
    side = SimpleNamespace(run=lambda: None, close=lambda: None)
    monkeypatch.setattr(breakdown, "_sides", lambda *_: [(name, side) for name in names])
    monkeypatch.setattr(breakdown, "interleaved", lambda *_: taken)
    rows = breakdown.breakdown_rows(_options(), random_images(np.full(8, 8), 20), "xs", 1)
    assert {row["part"]: row["share"] for row in rows} == {
        breakdown.WHOLE: 1.0,
        breakdown.OPTIMISER: 0.25,
        breakdown.AGGREGATION: 0.4,
    }


def test_rates_and_shares_follow_from_times():
    assert rates(10, [1.0, 2.0, 5.0]) == {"images/s": 5.0, "from": 2.0, "to": 10.0}
    assert share_saved([1.0, 3.0], [2.0, 2.0]) == [0.5, -0.5]


def test_every_table_is_shown_and_written(tmp_path, capsys):
    rows, more = [{"a column": 1}], [{"another": 2}]
    figures = output.Figures(rows, None, ("note",), {"second": more})
    output.show("first", figures)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("first", "second", "note"))
    output.write(tmp_path, "x", figures, {})
    written = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert (written["figures"], written["more"]) == (rows, {"second": more})


def test_our_loss_of_a_published_batch_is_the_published_loss(shared, monkeypatch):
    monkeypatch.setattr(reconstruction, "SIZES", {"xs": EncoderSize(width=96, depth=3, heads=3)})
    model = ModelConfig("xs", 64, decoder_width=64, decoder_depth=2, decoder_heads=4)
    with np.load(shared / "reference" / "mae_forward.npz") as file:
        values = dict(file)
    prefix = "state_dict/"
    state = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    params = params_from_torch(state, describe(state))
    batch = {
        "clean": values["target_clean_nchw"],
        "degraded": values["input_degraded_nchw"],
        "noise": values["noise"],
    }
    expected = float(values["loss_norm_pix_True"])
    assert published.loss_of(model, params, batch) == pytest.approx(expected, rel=1e-4)


class _FakePeer:
    """Computes our own loss, times a factor, and writes down what it was asked."""

    def __init__(self, options, factor):
        self._options, self._factor = options, factor
        self.asked = {}

    def ask(self, do, **arguments):
        self.asked[do] = arguments
        if do == "load":
            with np.load(arguments["weights"]) as weights:
                self._weights = dict(weights)
            return {"note": "a fake"}
        rng = np.random.default_rng(0)
        shape = (2, 3, 16, 16)
        batch = {name: rng.standard_normal(shape, np.float32) for name in ("clean", "degraded")}
        batch["noise"] = np.array([[3, 1, 0, 2], [0, 1, 2, 3]])
        np.savez(arguments["file"], **batch)
        model = run_config(self._options, "xs", 1).model
        params = params_from_torch(self._weights, describe(self._weights))
        return {"loss": self._factor * published.loss_of(model, params, batch)}


def test_a_published_side_with_another_loss_is_refused(tmp_path, monkeypatch):
    options = _options(f"--published={tmp_path}")
    images = Images(random_images(np.array([2]), 20), "", tmp_path, tmp_path / "all.txt")

    def check(factor):
        peer = _FakePeer(options, factor)
        return peer, *published.check_agreement(peer, options, images, "xs", tmp_path)

    peer, note, apart = check(1.0)
    assert "a fake" in note
    assert apart < 1e-6
    assert peer.asked["load"]["list_file"] == str(tmp_path / "all.txt")
    assert peer.asked["load"]["batch_size"] == 2
    monkeypatch.setattr(published, "loss_of", lambda *_: 0.9)  # Compiled no more.
    for factor in (1.001, np.nan):
        with pytest.raises(RuntimeError, match="their times would mean nothing"):
            check(factor)


@pytest.mark.parametrize(
    ("arguments", "has_code", "complaint"),
    [
        (["--data=."], False, "no models_mae.py"),
        ([], True, "name a folder of them with --data"),
        (["--data=.", "--dtype=bfloat16"], True, "use --dtype=float32"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_the_door(tmp_path, arguments, has_code, complaint):
    if has_code:
        (tmp_path / "models_mae.py").touch()
    with pytest.raises(ValueError, match=complaint):
        published.check_options(_options(f"--published={tmp_path}", *arguments))


def test_the_published_sides_script_compiles_and_has_an_environment_everywhere(tmp_path):
    script = ROOT / "tools" / "benchmarks" / "peers" / "published_side.py"
    py_compile.compile(str(script), cfile=str(tmp_path / "compiled"), doraise=True)
    for accelerator in ("cpu", "cuda"):
        torch = [r for r in published.requirements(accelerator) if r.startswith("torch==")]
        assert len(torch) == 1
