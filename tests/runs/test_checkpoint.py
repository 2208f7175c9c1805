"""Checkpoints: exact, safe from donation, the last few and the best kept."""

import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.errors import RunError
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.runs.checkpoint import Checkpoints, export_params, load_params


@pytest.fixture
def federation():
    def loss_fn(params, batch, keys):
        return (batch["x"] @ params["w"]).sum(-1) ** 2 + jax.vmap(jax.random.normal)(keys)

    return Federation(
        loss_fn,
        fedavg(optax.adam(0.01), optax.adam(0.01), client_state="persist"),
        [0, 30, 40, 100],
        Batching(8),
        placement=make_placement(2, 1),
    )


@pytest.fixture
def params():
    return {"w": jax.random.normal(jax.random.key(0), (300, 200))}


def _examples():
    return {"x": np.random.default_rng(0).normal(size=(100, 300)).astype(np.float32)}


def test_a_checkpoint_is_what_the_state_was_though_training_goes_on(tmp_path, federation, params):
    """The state is donated to the next round while it is still being written."""
    state, examples = federation.init(params), federation.replicate(_examples())
    copies = {}
    with Checkpoints(tmp_path, keep=10) as checkpoints:
        for r in range(4):
            state, _ = federation.run_round(state, examples, federation.plan(r))
            copies[r + 1] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
            checkpoints.save(r + 1, state, float(r))
        checkpoints.wait()
        for r, expected in copies.items():
            found = checkpoints.restore(r, state)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
            assert jax.tree.structure(found) == jax.tree.structure(state)


def test_restored_state_trains_on_to_the_same_bits_without_compiling_again(
    tmp_path, federation, params
):
    state, examples = federation.init(params), federation.replicate(_examples())
    for r in range(2):
        state, _ = federation.run_round(state, examples, federation.plan(r))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, 0.0)
        checkpoints.wait()
        done, restored = checkpoints.newest(federation.init(params))
        assert done == 2
    one, _ = federation.run_round(state, examples, federation.plan(2))
    other, _ = federation.run_round(restored, examples, federation.plan(2))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert federation.compilations == 1


def test_the_last_and_the_best_are_kept(tmp_path, federation, params):
    state = federation.init(params)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, loss in enumerate([3.0, 1.0, 2.0, 2.5, 2.2], start=1):
            checkpoints.save(step, state, loss)
        checkpoints.wait()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {2, 4, 5}


def test_a_loss_that_is_not_finite_is_no_best(tmp_path, federation, params):
    state = federation.init(params)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, loss in enumerate([3.0, float("nan"), 2.0, float("nan")], start=1):
            checkpoints.save(step, state, loss)
        checkpoints.wait()
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {3, 4}


def damage(path, how):
    match how:
        case "empty":
            path.write_bytes(b"")
        case "bit":
            content = path.read_bytes()
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "gone":
            path.unlink()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of 1, 2 and 3 rounds, with a ledger, of which the state counts the rounds."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for done in (1, 2, 3):
            state = {"w": jnp.full((4, 5), done, "float32"), "b": jnp.arange(3.0) + done}
            checkpoints.save(done, state, 1.0, {"spent": done})
    return tmp_path


LIKE = {"w": jnp.zeros((4, 5)), "b": jnp.zeros(3)}


@pytest.mark.parametrize("how", ["empty", "bit", "gone"])
@pytest.mark.parametrize("sealed", [True, False])
def test_damaged_checkpoints_are_passed_over_and_written_again(saved, caplog, how, sealed):
    """As if the run had been killed before the damaged ones were written."""
    if not sealed:
        (saved / "checkpoints.sha256").unlink()
        how = "empty"  # Without digests, what still decodes is taken.
    for step in (2, 3):
        files = sorted((saved / f"checkpoints/{step}/default").rglob("*"))
        for path in (path for path in files if path.is_file() and path.stat().st_size):
            damage(path, how)
    with Checkpoints(saved, keep=3) as checkpoints:
        done, state = checkpoints.newest(LIKE)
        assert done == 1
        assert (state["w"] == 1).all()
        assert checkpoints.ledger(1) == {"spent": 1}
        warnings = [line for line in caplog.messages if "going on from checkpoint 1" in line]
        assert all(any(f"checkpoints/{step}" in line for line in warnings) for step in (2, 3))
        assert {int(p.name) for p in (saved / "checkpoints").iterdir()} == {1}
        checkpoints.save(2, state, 1.0)
    with Checkpoints(saved, keep=3) as checkpoints:
        assert checkpoints.newest(LIKE)[0] == 2


def test_where_no_checkpoint_is_whole_none_is_removed(saved):
    for path in (saved / "checkpoints").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole .*manifest.* restore it"):
        Checkpoints(saved)
    assert {int(path.name) for path in (saved / "checkpoints").iterdir()} == {1, 2, 3}


def test_checkpoints_that_change_places_are_damaged(saved):
    folders = [saved / "checkpoints" / str(step) for step in (2, 3)]
    aside = saved / "aside"
    for before, after in ((folders[0], aside), (folders[1], folders[0]), (aside, folders[1])):
        before.rename(after)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest(LIKE)[0] == 1


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "metrics/metrics"])
@pytest.mark.parametrize("content", ["", "{}", "3", '{"init_timestamq_nsecs": 1}'])
def test_what_orbax_reads_as_it_opens_the_folder_is_passed_over_too(saved, name, content):
    (saved / "checkpoints/3" / name).write_text(content)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest(LIKE)[0] == 2


def test_what_a_killed_run_left_half_written_is_removed(saved):
    partial = saved / "checkpoints/4.orbax-checkpoint-tmp"
    shutil.copytree(saved / "checkpoints/3", partial)
    with Checkpoints(saved) as checkpoints:
        assert not partial.exists()
        assert checkpoints.newest(LIKE)[0] == 3


def test_the_best_is_known_after_a_restart(tmp_path):
    for losses in ([3.0, 1.0, 2.0], [2.5, 2.2, 2.3]):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            done, _ = checkpoints.newest(LIKE)
            for step, loss in enumerate(losses, start=done + 1):
                checkpoints.save(step, LIKE, loss)
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {2, 6}


def test_the_chosen_checkpoint_is_checked_too(saved):
    (saved / "checkpoints/2/_CHECKPOINT_METADATA").write_text("{}")
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(RunError, match=r"2/_CHECKPOINT_METADATA is damaged.* new --workdir"):
            checkpoints.restore(2, LIKE)
        checkpoints.restore(3, LIKE)


def test_digests_are_those_of_sha256sum(saved):
    """Of the checkpoints that are there: those of one that is gone are dropped."""
    done = subprocess.run(
        ["sha256sum", "-c", "checkpoints.sha256"], cwd=saved, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == sum(
        path.is_file() for path in (saved / "checkpoints").rglob("*")
    )


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest("begun") == (0, "begun")


def test_an_export_holds_the_parameters_alone(tmp_path):
    params = {"encoder": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    export_params(tmp_path / "model", params)
    export_params(tmp_path / "model", params)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "model"), params)
