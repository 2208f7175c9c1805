"""A mutated file of a run is an error of one line, or changes nothing that is read from the run."""

import json
import random
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.fuzz.conftest import count
from ufm_jax.config.federation import PrivacyConfig
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.schema import flatten as flatten_settings
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import UserError
from ufm_jax.interop.torch_names import flatten
from ufm_jax.runs.checkpoint import Checkpoints
from ufm_jax.runs.exported import read_ours
from ufm_jax.runs.folder import CONFIG_FILE, write_json
from ufm_jax.runs.history import MetricWriter, RoundRecord, read_history
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.runs.seen_images import SeenImages, read_seen_images, write_seen_images
from ufm_jax.runs.trained_model import TrainedModel, load_config, load_model, save_model

ROUNDS = 3
FLIPPED = ("task.json", "seen.json", CONFIG_FILE, "model", "personal", "checkpoints")
"""What has a digest, so that one bit is not lost on it."""


class State(NamedTuple):
    """In the place of a federation's."""

    params: jax.Array
    moments: jax.Array


def state_after(rounds: int) -> State:
    return State(jax.numpy.full((3, 5), rounds, "float32"), jax.numpy.arange(4.0) * rounds)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run, of which nothing was trained."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(8, 12)).astype(np.float32) for name in ("kernel", "bias")}
    params = {"encoder": {"patch_embed": arrays}, "head": {"kernel": arrays["bias"]}}
    write_json(folder / CONFIG_FILE, flatten_settings(FinetuneConfig()) | {"data.clients": ["a"]})
    write_seen_images(folder, SeenImages("print", frozenset(("one", "two"))))
    with MetricWriter(folder, 0) as writer, Checkpoints(folder) as checkpoints:
        for r in range(ROUNDS):
            writer.write(RoundRecord(r, 0.5, 1.0, 1.0, 8, 8.0, 1.0, 0.1, 1, [], []))
            checkpoints.save(r + 1, state_after(r + 1), 1.0)
    personal = {"head/kernel": np.stack([arrays["kernel"], arrays["bias"]])}
    task = Task("single", ("cyst", "mass"))
    save_model(folder, TrainedModel(params, task, personal, ("a", "b"), 2, {"mass": 0.3}))
    noise_words(PrivacyConfig("example"), folder, begun=False)
    return folder


def evaluating(folder):
    """What evaluation reads, as a value that can be compared."""
    config, model, seen = load_config(folder), load_model(folder), read_seen_images(folder)
    arrays = flatten(model.params) | dict(model.personal)
    facts = (model.task, model.clients, model.round, model.thresholds, seen)
    return config.to_json(), *facts, {name: array.tobytes() for name, array in arrays.items()}


def starting(folder):
    """What another run takes; without a configuration beside it the model's grid is not known."""
    weights = read_ours(folder)
    known = (folder / CONFIG_FILE).exists()
    assert weights.grid == (FinetuneConfig().model.grid if known else None)
    return {name: array.tobytes() for name, array in flatten(weights.params).items()}


def resuming(folder):
    """What a resumed run reads: the state and the records of the rounds before it."""
    with Checkpoints(folder) as checkpoints:
        done, state = checkpoints.newest(state_after(0))
        checkpoints.ledger(done)
    assert [np.asarray(leaf).tolist() for leaf in state] == [
        np.asarray(leaf).tolist() for leaf in state_after(done)
    ]
    noise_words(PrivacyConfig("example"), folder, begun=True)
    records = [asdict(record) for record in read_history(folder, done)]
    return done, json.dumps(records)


def mutate(rng, folder):
    """Changes one file; returns its path and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    how = rng.choice(("truncate", "empty", "swap", "garbage", "delete", "flip", "folder"))
    content = path.read_bytes()
    if how == "flip" and (path.relative_to(folder).parts[0] not in FLIPPED or not content):
        how = "garbage"
    match how:
        case "truncate":
            path.write_bytes(content[: rng.randrange(len(content) or 1)])
        case "empty":
            path.write_bytes(b"")
        case "swap":
            other = rng.choice(files)
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
        case "garbage":
            path.write_bytes(rng.randbytes(len(content) + 1))
        case "flip":
            place = rng.randrange(len(content))
            bit = 1 << rng.randrange(8)
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        case "delete":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
    return path.relative_to(folder).as_posix(), how


def earlier(found, expected):
    """Whether a resumed run goes on as if it had been killed earlier, or had lost its history."""
    done, records = found
    kept, whole = json.loads(records), json.loads(expected[1])
    return done <= expected[0] and kept == whole[: len(kept)]


def outcome_of(load, folder, expected):
    """'equal', 'refused' in one line that names the folder, or what is wrong."""
    try:
        found = load(folder)
    except UserError as error:
        text = str(error)
        return "refused" if "\n" not in text and str(folder) in text else f"unclear: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found == expected:
        return "equal"
    return "earlier" if load is resuming and earlier(found, expected) else f"other: {found}"


def test_a_mutated_run_is_read_as_it_was_or_refused(run, tmp_path):
    expected = {load: load(run) for load in (evaluating, starting, resuming)}
    rng, outcomes, faults = random.Random(0), Counter(), []
    for number in range(count(500)):
        folder = shutil.copytree(run, tmp_path / str(number))
        mutated, how = mutate(rng, folder)
        for load, wanted in expected.items():
            outcome = outcome_of(load, folder, wanted)
            if outcome not in ("equal", "refused", "earlier"):
                faults.append(f"{load.__name__} after {how} of {mutated}: {outcome}")
            outcomes[load.__name__, how, outcome[:7]] += 1
        shutil.rmtree(folder)
    for key, number in sorted(outcomes.items()):
        print(*key, number)
    assert not faults, "\n".join(faults)
