"""A small run of pretraining, and what it leaves behind, as exact as can be compared."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from ufm_jax.runs.history import HISTORY_FILE, read_history

QUICKSTART = {
    "federation.cohort_size": 4,
    "federation.client_state": "persist",
    "federation.local_epochs": 2,
    "federation.batch_size": 4,
    "data.num_sites": 6,
    "data.mean_size": 12,
    "data.holdout_fraction": 0.1,
    "data.working_size": 40,
    "model.image_size": 32,
    "model.decoder_width": 48,
    "model.decoder_depth": 1,
    "model.scan_layers": True,
    "schedule.warmup_rounds": 2,
    "placement.cpu_devices": 2,
    "checkpoint.every_rounds": 1,
    "evaluation.every_rounds": 1,  # However often a run saves.
}
"""Keys for configs/quickstart.py: ragged clients, two devices, a checkpoint every round."""


def rounds_written(workdir):
    path = workdir / HISTORY_FILE
    return path.read_text().count("\n") if path.exists() else 0


def losses_of(workdir):
    return [
        (r.round, r.loss, [(c.client, c.loss) for c in r.clients], str(r.held_out))
        for r in read_history(workdir)
    ]


def assert_same_state(one, other, rounds):
    """A checkpoint of two runs is equal to the bit, client states and optimisers included."""
    expected, found = state_of(one, rounds), state_of(other, rounds)
    assert expected.keys() == found.keys()
    assert len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def state_of(workdir, rounds):
    """Every array of a checkpoint, on one device, whichever it was saved on."""
    folder = workdir.absolute() / "checkpoints" / str(rounds) / "default"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder).item_metadata.tree
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored)
        tree = checkpointer.restore(folder, like)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}
