"""Checks of what became of splits, classes and clients."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ufm_jax.data.issues import DataError, Issue, described
from ufm_jax.data.label_settings import SPLITS, LabelSettings
from ufm_jax.data.records import Record
from ufm_jax.data.screening import Decoded

_REMEDY = {
    "column": "mark images for it in split.column or folders, or set split.policy='fractions'",
    "fold": "choose another split.test_fold, or split.policy='fractions'",
    "fractions": "raise split.val_fraction and split.test_fraction",
}


def check_splits(
    splits: np.ndarray, targets: np.ndarray, classes: Sequence[str], settings: LabelSettings
) -> None:
    """Refuses splits that nothing can be learnt from.

    Args:
      splits: str [R].
      targets: float32 [R, C].
      classes: C names.
      settings: the task, and the splits that must not be empty.

    Raises:
      DataError: a required split is empty, or what is trained on shows one class only.
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
    seen = targets[splits == "train"]
    positive, negative = (seen == 1).any(0), (seen == 0).any(0)
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
    """Finds images whose pixels another split holds too, which makes a figure worthless.

    Args:
      decoded: R usable records.
      splits: str [R].
      policy: 'error', 'skip' (the copy that is tested on stays, then the one chosen by) or 'keep'.

    Returns:
      Positions to leave out, and an issue for each copy.

    Raises:
      DataError: under 'error', if there is a copy.
    """
    first: dict[bytes, int] = {}
    copies: dict[int, Issue] = {}
    pixels = decoded.cached.digests[decoded.rows]
    by_split = sorted(range(len(splits)), key=lambda i: -SPLITS.index(str(splits[i])))
    for index in by_split:
        original = first.setdefault(pixels[index].tobytes(), index)
        if splits[original] != splits[index]:
            record = decoded.records[index]
            reason = (
                f"in {splits[index]}, same pixels as {decoded.records[original].name} in "
                f"{splits[original]}"
            )
            copies[index] = Issue("duplicate_split", record.client, record.name, reason)
    if copies and policy == "error":
        raise DataError(
            f"{described(copies.values())}\nGroup them, or set duplicates='skip' to keep the copy "
            "that is tested on, or 'keep' to only list them"
        )
    return set(copies) if policy == "skip" else set(), list(copies.values())


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
