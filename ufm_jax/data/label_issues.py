"""What is wrong with labels, masks and splits: kinds of issues beside those of the images."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ufm_jax.data.issues import FAULTS, KINDS, DataError, DataIssues, Issue

LABEL_KINDS: Mapping[str, str] = {
    "no_mask": "images without a mask",
    "lone_mask": "masks without an image",
    "mask_size": "masks of another size than their image",
    "unknown_class": "labels or mask values that are no class of the task",
    "grey_mask": "masks with grey values, thresholded at half of full scale",
    "no_group": "clients with images of no known group, each of which stands alone",
    "duplicate_split": "images that more than one split holds",
    "absent_class": "classes that are absent from a split",
    "no_train": "clients without an image to train on",
}
LABEL_FAULTS = FAULTS | {"no_mask", "mask_size", "unknown_class"}
"""Kinds that make an image unusable for a task."""

_ALL = {**KINDS, **LABEL_KINDS}
_SHOWN = 5
_BAD_REMEDY = "Mend or remove them, or set on_bad='skip' to leave them out and list them"
_UNLABELLED_REMEDY = "Label them, or set unlabelled='skip' to leave them out and list them"
_UNLABELLED = ("no_label", "no_mask")


@dataclass(frozen=True, slots=True)
class LabelIssue(Issue):
    """One fault of a label, a mask or a split; its kind is a key of `KINDS` or `LABEL_KINDS`."""

    def __post_init__(self) -> None:
        if self.kind not in _ALL:
            raise ValueError(f"unknown kind of issue {self.kind!r}; known: {sorted(_ALL)}")


@dataclass(frozen=True)
class LabelIssues(DataIssues):
    """Everything found wrong in labelled data that did not stop the run."""

    def counts(self) -> dict[str, int]:
        """Number of issues of each kind that occurs, those of images first."""
        counted = Counter(issue.kind for issue in self.found)
        return {kind: counted[kind] for kind in _ALL if counted[kind]}

    def summary(self) -> list[str]:
        """One line a kind: how many, what, and one example."""
        lines = []
        for kind, count in self.counts().items():
            first = next(issue for issue in self.found if issue.kind == kind)
            lines.append(f"{count} {_ALL[kind]} [{kind}]; first: {first}")
        return lines + [f"{n} images left out: {reason}" for reason, n in self.excluded.items()]


def stop_or_list(issues: Iterable[Issue], on_bad: str, unlabelled: str) -> tuple[Issue, ...]:
    """Hands issues back, unless there are faults among them that are to stop the run.

    Args:
      issues: what was found.
      on_bad: 'error' stops at unusable images and masks.
      unlabelled: 'error' stops at images without label or mask.

    Raises:
      DataError: shows the first few faults and their count.
    """
    found = tuple(issues)
    missing = [issue for issue in found if issue.kind in _UNLABELLED]
    bad = [i for i in found if i.kind in LABEL_FAULTS and i.kind not in _UNLABELLED]
    for faults, policy, remedy in (
        (bad, on_bad, _BAD_REMEDY),
        (missing, unlabelled, _UNLABELLED_REMEDY),
    ):
        if faults and policy == "error":
            raise DataError(f"{described(faults)}\n{remedy}")
    return found


def described(issues: Iterable[Issue]) -> str:
    """How many of each kind, and the first few, one a line."""
    found = LabelIssues(tuple(issues))
    what = "; ".join(f"{count} {_ALL[kind]}" for kind, count in found.counts().items())
    shown = "".join(f"\n  {issue}" for issue in found.found[:_SHOWN])
    more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{what}:{shown}{more}"
