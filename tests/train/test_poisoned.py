"""A poisoned federation: what is wrong is named, left out and counted, and the run goes on."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ufm_jax.config.pretraining import pretrain_config, resolve
from ufm_jax.errors import DataError
from ufm_jax.runs.history import read_history
from ufm_jax.train import pretraining
from ufm_jax.train.report import report_end


def _write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Six clients: two healthy, one with bad files, one empty, one with a copy, one white."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    for client in ("healthy_a", "healthy_b", "bad_files", "copycat", "white"):
        for i in range(6):
            pixels = np.full((40, 48), rng.integers(0, 200), np.uint8)
            pixels[10:20, 10:30] = rng.integers(0, 200, (10, 20))
            if client == "white":
                pixels[:] = 255 - i
            _write(folder / client / f"{i}.png", pixels)
    whole = (folder / "bad_files" / "0.png").read_bytes()
    (folder / "bad_files" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad_files" / "text.png").write_text("not an image")
    (folder / "bad_files" / "nothing.png").write_bytes(b"")
    (folder / "copycat" / "copy.png").write_bytes((folder / "healthy_a" / "3.png").read_bytes())
    (folder / "empty").mkdir()
    return folder


def _config(root, tmp_path, **data):
    config = pretrain_config()
    config.data.update(
        source="folders",
        root=str(root),
        cache_dir=str(tmp_path / "cache"),
        working_size=40,
        on_bad="skip",
        duplicates="skip",
        holdout_fraction=0.0,
        **data,
    )
    config.model.update(
        size="xs", image_size=32, patch_size=8, decoder_width=32, decoder_depth=1, decoder_heads=4
    )
    config.model.channels = 1
    config.federation.update(rounds=2, batch_size=4)
    config.schedule.warmup_rounds = 0
    config.placement.devices = 2
    return config


@pytest.fixture
def nan_where_white(monkeypatch):
    """Makes every image of the white client yield nan."""
    honest = pretraining.make_loss

    def make_loss(model, augment):
        loss_fn = honest(model, augment)

        def poisoned(params, batch, keys):
            white = batch["image"].astype(jnp.float32)[:, 8, 8, 0] > 240
            return jnp.where(white, jnp.nan, loss_fn(params, batch, keys))

        return poisoned

    monkeypatch.setattr(pretraining, "make_loss", make_loss)


def test_it_trains_on_what_is_sound_and_says_what_is_not(root, tmp_path, nan_where_white):
    config = resolve(_config(root, tmp_path))
    workdir = tmp_path / "run"
    run = pretraining.pretrain(config, workdir)

    assert run.data.names == ("bad_files", "copycat", "healthy_a", "healthy_b", "white")
    assert run.data.sizes.tolist() == [6, 7, 5, 6, 6]  # the first of two copies stays
    history = read_history(workdir)
    assert [record.rejected for record in history] == [["white"], ["white"]]
    assert all(np.isfinite(record.loss) for record in history)
    issues = json.loads((workdir / "data.json").read_text())["issues"]
    assert issues["counts"] == {
        "empty": 1,
        "corrupt": 2,
        "empty_client": 1,
        "duplicate_across": 1,
    }
    assert report_end(config, workdir, run, 0.0) == [f"report: {workdir / 'report.html'}"]
    report = (workdir / "report.html").read_text()
    for name in ("truncated.png", "text.png", "nothing.png", "3.png", "white"):
        assert name in report


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"on_bad": "error"}, ("nothing.png", "bad_files", "on_bad")),
        ({"duplicates": "error"}, ("copy.png", "copycat", "duplicates")),
    ],
)
def test_or_it_stops_before_training_and_names_the_file(root, tmp_path, policy, named):
    config = _config(root, tmp_path)
    config.data.update(policy)
    with pytest.raises(DataError) as caught:
        pretraining.pretrain(resolve(config), tmp_path / "run")
    assert all(word in str(caught.value) for word in named), caught.value
    assert not (tmp_path / "run").exists()
