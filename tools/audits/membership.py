"""Who a model was trained on, told by how sure it is of the true label."""

from pathlib import Path

import numpy as np

from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.paired_tests import auroc_interval
from ufm_jax.evaluation.predictions import DiagnosisPredictions
from ufm_jax.evaluation.predictions_csv import read_table, table_path
from ufm_jax.files import write_json

MEMBERSHIP_FILE = "membership.json"


def audit_members(folder: Path) -> str:
    """Attacks the predictions in a folder, and writes membership.json beside them.

    Args:
        folder: Holds predictions_train.csv, of all images trained on, and predictions_test.csv.

    Returns:
        The figures in a sentence.

    Raises:
        ConfigError: If they are not of a single-label diagnosis.
        DataError: If they are not there.
    """
    scores, members, groups = [], [], []
    for split in ("train", "test"):
        table = read_table(table_path(folder, split))
        if not isinstance(table, DiagnosisPredictions) or table.kind != "single":
            raise ConfigError(f"--members={folder}: it takes a diagnosis with one label an image")
        scores.append(table.probabilities[np.arange(len(table.labels)), table.labels])
        members.append(np.full(len(table.labels), split == "train"))
        groups.append(np.asarray(table.groups))
    member, score = np.concatenate(members), np.concatenate(scores)
    found = auroc_interval(member, score, np.concatenate(groups))
    advantage = _advantage(score, member)
    figures = {
        "auroc": {"value": found.value, "low": found.low, "high": found.high},
        "advantage": advantage,
        "members": int(member.sum()),
        "others": int((~member).sum()),
    }
    write_json(folder / MEMBERSHIP_FILE, figures)
    return (
        f"members are told from others with AUROC {found.value:.3f} ({found.low:.3f} to "
        f"{found.high:.3f}), advantage {advantage:.3f}, on {figures['members']} members and "
        f"{figures['others']} others"
    )


def _advantage(score: np.ndarray, member: np.ndarray) -> float:
    """The largest difference of true and false positive rate, over thresholds."""
    order = np.argsort(-score, kind="stable")
    true, false = np.cumsum(member[order]), np.cumsum(~member[order])
    # A threshold lies between different scores alone.
    last = np.append(np.diff(score[order]) != 0, True)
    return float(max(0.0, (true[last] / member.sum() - false[last] / (~member).sum()).max()))
