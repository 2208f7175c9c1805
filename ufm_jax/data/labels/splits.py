"""Splits: which groups are trained on, chosen by and tested on. Groups are never torn apart.

Groups are drawn in the order of a hash of seed, purpose and group name. Other files, or the same
files in another order, therefore change the draw of a group as little as they can.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ufm_jax.data.cells import integer_of, matched
from ufm_jax.data.issues import Issue
from ufm_jax.data.labels.settings import SPLITS, SplitSettings
from ufm_jax.data.records import Record
from ufm_jax.errors import DataError


@dataclass(frozen=True)
class Groups:
    """Groups of R images.

    Attributes:
        names: G names.
        ids: int64 [R], the group of each image.
        shown: bool [G, C], the classes that occur in a group.
        strata: int64 [G], the rarest class that occurs in a group, -1 if none does.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    shown: np.ndarray
    strata: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Images of each group, int64 [G]."""
        return np.bincount(self.ids, minlength=len(self.names))


def make_groups(names: Sequence[str], presence: np.ndarray) -> Groups:
    """Numbers groups in order of first appearance.

    Args:
        names: [R], name of each image's group; an image without a group has a name of its own.
        presence: bool [R, C], classes that an image shows.
    """
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    ids = np.array([number[name] for name in names], np.int64)
    shown = np.zeros((len(number), presence.shape[1]), bool)
    np.logical_or.at(shown, ids, presence)
    frequency = np.where(shown, presence.sum(0), np.iinfo(np.int64).max)
    strata = np.where(shown.any(1), frequency.argmin(1), -1)
    return Groups(tuple(number), ids, shown, strata)


def by_name(names: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """Positions of names in a random order, int64 [G], which other names do not change."""
    # A file's name need not be UTF-8: see ``os.fsdecode``.
    texts = [f"{seed}/{purpose}/{name}".encode(errors="surrogateescape") for name in names]
    keys = [hashlib.blake2b(text).digest() for text in texts]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), np.int64)


def given_splits(
    records: Sequence[Record], names: Sequence[str], settings: SplitSettings
) -> tuple[tuple[Record, ...], list[Issue]]:
    """Puts into ``Record.split`` what the source says of it: 'train', 'val', 'test', or '' to draw.

    Args:
        records: R records.
        names: [R], unique names of the images, for messages.
        settings: The policy.

    Returns:
        The records, and an issue for each image whose group was moved as a whole.

    Raises:
        DataError: If a value does not mean a split, or a group is in two.
    """
    match settings.policy:
        case "column":
            splits = _from_column(records, names, settings)
        case "fold":
            splits = _from_folds(records, names, settings)
        case "fractions":
            splits = [""] * len(records)
    first: dict[str, int] = {}
    moved: dict[str, str] = {}
    for index, record in enumerate(records):
        if record.group is None or splits[first.setdefault(record.group, index)] == splits[index]:
            continue
        other = first[record.group]
        if settings.torn_groups == "error":
            raise DataError(
                f"group {record.group!r} is in two splits: {names[other]} in {splits[other]!r} and "
                f"{names[index]} in {splits[index]!r}. Correct the groups or the splits, or set "
                "split.torn_groups='move'"
            )
        held = (moved.get(record.group, splits[other]), splits[index])
        moved[record.group] = min(held, key=SPLITS.index)
    issues = [
        Issue("split_group", r.client, name, f"group {r.group!r}: from {split} to {moved[r.group]}")
        for r, name, split in zip(records, names, splits, strict=True)
        if r.group is not None and moved.get(r.group, split) != split
    ]
    placed = tuple(
        replace(r, split=moved.get(r.group or "", split))
        for r, split in zip(records, splits, strict=True)
    )
    return placed, list[Issue](issues)


def drawn_splits(splits: np.ndarray, groups: Groups, settings: SplitSettings) -> np.ndarray:
    """Draws, as the policy says, the splits that the source does not name: str [R].

    ``splits``, str [R], is '' where the source names none.
    """
    splits = splits.copy()
    if settings.policy == "fractions":
        draw_part(splits, groups, "", "test", settings.test_fraction, settings.seed)
        rest = settings.val_fraction / (1 - settings.test_fraction)
        draw_part(splits, groups, "", "val", rest, settings.seed)
        splits[splits == ""] = "train"
    elif settings.policy == "column" and not (splits == "val").any():
        draw_part(splits, groups, "train", "val", settings.val_fraction, settings.seed)
    return splits


def draw_part(
    splits: np.ndarray, groups: Groups, source: str, target: str, fraction: float, seed: int
) -> None:
    """Moves a share of the groups of split ``source`` to split ``target``, stratum by stratum.

    In the order of their hashes, groups go over as long as that brings the share of images nearer
    to ``fraction``. If none does, the smallest goes, provided that two stay behind. ``splits``,
    str [R], is changed in place.
    """
    if fraction <= 0:
        return
    split_of = np.empty(len(groups.names), splits.dtype)
    split_of[groups.ids] = splits
    order = by_name(groups.names, seed, f"split/{target}")
    order = order[split_of[order] == source]
    for stratum in np.unique(groups.strata[order]):
        mine = order[groups.strata[order] == stratum]
        sizes = groups.sizes[mine]
        wanted = fraction * sizes.sum()
        drawn: list[int] = []
        held = 0
        for place, size in enumerate(sizes.tolist()):
            if held + size / 2 <= wanted and len(drawn) < len(mine) - 1:
                drawn.append(place)
                held += size
        if not drawn and len(mine) > 2:
            drawn = [int(sizes.argmin())]
        split_of[mine[drawn]] = target
    splits[:] = split_of[groups.ids]


def _from_column(
    records: Sequence[Record], names: Sequence[str], settings: SplitSettings
) -> list[str]:
    values = (settings.train_values, settings.val_values, settings.test_values)
    found = [r.attributes.get(settings.column, "") for r in records]
    meaning: dict[str, str] = {}
    for split, mean in zip(SPLITS, values, strict=True):
        usual = getattr(SplitSettings, f"{split}_values")
        meaning |= dict.fromkeys(matched(f"split.{split}_values", mean, found, usual), split)
    for value, name in zip(found, names, strict=True):
        if value not in meaning:
            raise DataError(
                f"{name}: {settings.column}={value!r} means no split. Add it to split.train_values,"
                " val_values or test_values, or set split.policy='fractions' or 'fold'"
            )
    return [meaning[value] for value in found]


def _from_folds(
    records: Sequence[Record], names: Sequence[str], settings: SplitSettings
) -> list[str]:
    column = settings.fold_column
    numbers: list[int] = []
    for record, name in zip(records, names, strict=True):
        value = record.attributes.get(column, "")
        with suppress(ValueError):
            number = integer_of(value)
            if number is not None and number >= 0:
                numbers.append(number)
                continue
        known = sorted({key for record in records for key in record.attributes})
        raise DataError(
            f"{name}: {column}={value!r} is not the number of a fold: set split.fold_column to one "
            f"of {known}, or split.policy"
        )
    folds = sorted(set(numbers))
    chooses = settings.val_fraction > 0
    if settings.test_fold not in folds or len(folds) < 2 + chooses:
        raise DataError(
            f"split.test_fold={settings.test_fold}: the folds are {folds}; it must be one of them, "
            "and at least one must remain beside it"
            + (" and the one for validation" if chooses else "")
        )
    test = folds.index(settings.test_fold)
    special = {folds[test]: "test"}
    if chooses:
        special[folds[(test + 1) % len(folds)]] = "val"
    return [special.get(number, "train") for number in numbers]
