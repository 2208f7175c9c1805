"""Checks of the records listed, and of the splits, classes and clients that came of them."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ufm_jax.data.copies import copies_of
from ufm_jax.data.decoding import Decoded
from ufm_jax.data.issues import Issue, enforce
from ufm_jax.data.labels.settings import SPLITS, LabelSettings
from ufm_jax.data.records import Record
from ufm_jax.errors import DataError

_REMEDY = {
    "column": "mark images for it in split.column or folders, or set split.policy='fractions'",
    "fold": "choose another split.test_fold, or split.policy='fractions'",
    "fractions": "raise split.val_fraction and split.test_fraction",
}


def one_record_per_file(
    records: Sequence[Record], policy: str
) -> tuple[list[Record], tuple[Issue, ...]]:
    """Keeps one record of each file, because an image must not count twice, or train and test.

    Returns:
        The records kept, and an issue for each of the others.

    Raises:
        DataError: If records of one file disagree; or if they agree, and the policy is not 'skip',
            which keeps the first.
    """
    real_folder = functools.lru_cache(maxsize=None)(os.path.realpath)
    first: dict[str, Record] = {}
    kept: list[Record] = []
    issues: list[Issue] = []
    for record in records:
        if isinstance(record.image, Path):
            file = os.path.join(real_folder(record.image.parent), record.image.name)
        else:
            file = record.name
        other = first.setdefault(file, record)
        if other is record:
            kept.append(record)
            continue
        if differences := _differences(other, record):
            raise DataError(
                f"{record.name} is listed twice, with {differences}: keep one row for each file"
            )
        reason = "is listed twice; the first row is kept"
        issues.append(Issue("duplicate_within", record.client, record.name, reason))
    remedy = "Remove the rows, or set data.duplicates='skip' to keep the first of each"
    return kept, enforce(issues, "skip" if policy == "skip" else "error", remedy)


def _differences(one: Record, other: Record) -> str:
    """What the source says differently of two records; '' if nothing."""
    facts, others = (
        {"client": r.client, "mask": str(r.mask or ""), **r.attributes} for r in (one, other)
    )
    differ = [key for key in facts | others if facts.get(key, "") != others.get(key, "")]
    return ", ".join(f"{key} {facts.get(key, '')!r} and {others.get(key, '')!r}" for key in differ)


def check_splits(
    splits: np.ndarray, targets: np.ndarray, classes: Sequence[str], settings: LabelSettings
) -> None:
    """Refuses splits, str [R], that nothing can be learnt from; ``targets`` is float32 [R, C].

    Raises:
        DataError: If a required split is empty, or the training images show one class only.
    """
    for split in settings.split.required:
        if not (splits == split).any():
            held = {name: int((splits == name).sum()) for name in SPLITS}
            raise DataError(
                f"split {split!r} is empty (images that can be used: {held}): "
                f"{_REMEDY[settings.split.policy]}; or leave it out of split.required"
            )
    if "train" not in settings.split.required:
        return
    trained = targets[splits == "train"]
    positive, negative = (trained == 1).any(0), (trained == 0).any(0)
    if settings.kind == "segment" and not positive.any():
        raise DataError(f"no mask of train images shows any of {', '.join(classes)}")
    if settings.kind == "single" and positive.sum() < 2:
        only = [name for name, shown in zip(classes, positive, strict=True) if shown]
        raise DataError(
            f"the labels of train images are of one class only, {only}: see label_columns, "
            "leave_out and the splits"
        )
    if settings.kind == "multi" and not (positive & negative).any():
        raise DataError(
            f"no finding of {', '.join(classes)} is both present and absent among train images"
        )


def copies_across_splits(
    decoded: Decoded, splits: np.ndarray, policy: str
) -> tuple[set[int], list[Issue]]:
    """Finds images whose pixels another split holds too, which would make a figure worthless.

    Args:
        decoded: R usable records.
        splits: str [R].
        policy: 'error'; or which copy stays: under 'keep' the one in the first of train, val, test,
            so that no image tests or chooses that was trained on; under 'skip' the one in the last.

    Returns:
        Positions to leave out, and an issue for each.

    Raises:
        DataError: Under 'error', if there is a copy.
    """
    copies: dict[int, Issue] = {}
    places = [SPLITS.index(str(split)) for split in splits]
    order = sorted(range(len(places)), key=places.__getitem__, reverse=policy == "skip")
    for index, original in copies_of(decoded, order):
        if splits[original] != splits[index]:
            record = decoded.records[index]
            reason = (
                f"left out of {splits[index]}: same pixels as {decoded.records[original].name} in "
                f"{splits[original]}"
            )
            copies[index] = Issue("duplicate_split", record.client, record.name, reason)
    remedy = (
        "Give them one group, or set duplicates='keep' to leave them out of what tests, or 'skip' "
        "to leave them out of what is trained on"
    )
    return set(copies), list(enforce(copies.values(), policy, remedy))


def ungrouped(records: Sequence[Record]) -> list[Issue]:
    """An issue for each client some of whose images have no group."""
    total = Counter(record.client for record in records)
    alone = Counter(record.client for record in records if record.group is None)
    return [
        Issue(
            "no_group",
            client,
            "",
            f"{count} of {total[client]} images have no group: if several are of one patient, "
            "splits may tear the patient apart and flatter every figure; see group_column and "
            "group_pattern",
        )
        for client, count in alone.items()
    ]


def absent_classes(splits: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> list[Issue]:
    """An issue for each class that no image of a split shows."""
    return [
        Issue("absent_class", "all", f"split {split}", f"no image shows {name!r}")
        for split in SPLITS
        if (splits == split).any()
        for name, shown in zip(classes, (targets[splits == split] == 1).any(0), strict=True)
        if not shown
    ]


def clients_without_training(
    clients: Sequence[str], owner: np.ndarray, splits: np.ndarray
) -> list[Issue]:
    """An issue for each client that holds images but none to train on."""
    issues: list[Issue] = []
    for number, client in enumerate(clients):
        held = splits[owner == number]
        if len(held) and not (held == "train").any():
            where = ", ".join(sorted(set(held.tolist())))
            reason = f"its {len(held)} images are in {where}"
            issues.append(Issue("no_train", client, "", reason))
    return issues
