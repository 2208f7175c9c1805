"""What is wrong with the data, by kind, client and file; and the policy: stop, or skip and say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from ufm_jax.errors import DataError

KINDS: Mapping[str, str] = {
    "missing": "files that cannot be opened",
    "empty": "files of 0 bytes",
    "outside": "paths that leave the root folder",
    "corrupt": "files that do not decode",
    "no_label": "images without a label",
    "no_client": "images without a client",
    "empty_client": "clients without a usable image",
    "duplicate_across": "images that more than one client holds",
    "duplicate_within": "images that one client holds more than once",
    "multi_frame": "files of several frames, of which the first is used",
    "no_scan": "files in which the scan cannot be told from what surrounds it",
    "scan_header": "scans of which something was not believed, or not used",
    "frames": "clips of which some frames are left out",
    "not_image": "files and links that are not images",
    "near_equal": "names that differ only by case, blanks or leading zeros",
    "mask_folder": "folders of images that are named like masks",
    "split_group": "groups of which another split holds images too",
    "no_mask": "images without a mask",
    "lone_mask": "masks without an image",
    "mask_size": "masks of another size than their image",
    "unknown_class": "labels or mask values that are not a class of the task",
    "grey_mask": "masks with grey values, thresholded at half of full scale",
    "no_group": "clients with images of no known group, each of which stands alone",
    "duplicate_split": "images that another split holds too",
    "empty_class": "folders of a class without an image",
    "absent_class": "classes that are absent from a split",
    "no_train": "clients without an image to train on",
    "held_out_seen": "images to be held out whose group, or a copy, is trained on",
}
_UNLABELLED = ("no_label", "no_mask")
_BAD = (
    "missing",
    "empty",
    "outside",
    "corrupt",
    "no_client",
    "empty_client",
    "mask_size",
    "no_scan",
)
FAULTS = frozenset((*_UNLABELLED, *_BAD, "unknown_class"))
"""Kinds that make an image or a client unusable; the others are only worth knowing."""

_SHOWN = 5
_BAD_REMEDY = "Mend or remove them, or set on_bad='skip' to leave them out and list them"
_UNLABELLED_REMEDY = "Label them, or set unlabelled='skip' to leave them out and list them"


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault: its kind (a key of ``KINDS``), the client and file it is in, and the reason."""

    kind: str
    client: str
    path: str
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of issue {self.kind!r}; known: {sorted(KINDS)}")

    def __str__(self) -> str:
        where = f"{self.path} (client {self.client})" if self.path else f"client {self.client}"
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class DataIssues:
    """What is wrong with a federation's data and did not stop the run.

    Attributes:
        entries: All issues, in the order of discovery.
        excluded: Number of images left out on purpose (of a split that is not asked for), by
            reason: no image disappears without a count.
    """

    entries: tuple[Issue, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Number of issues of each kind that occurs, in the order of ``KINDS``."""
        counted = Counter(issue.kind for issue in self.entries)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def by_kind(self) -> dict[str, list[tuple[str, str, str]]]:
        """(client, path, reason) of every issue under its kind."""
        return {
            kind: [(i.client, i.path, i.reason) for i in self.entries if i.kind == kind]
            for kind in self.counts()
        }

    def to_json(self) -> dict[str, Any]:
        """The issues and counts as ``json.dumps`` takes them."""
        return {
            "counts": self.counts(),
            "excluded": dict(self.excluded),
            "issues": {
                kind: [{"client": c, "path": p, "reason": r} for c, p, r in entries]
                for kind, entries in self.by_kind().items()
            },
        }

    def summary(self) -> list[str]:
        """One line a kind: how many, what, in which clients, and one example."""
        lines = []
        for kind, count in self.counts().items():
            issues = [issue for issue in self.entries if issue.kind == kind]
            clients = sorted({issue.client for issue in issues})
            where = ", ".join(clients[:_SHOWN]) + (", ..." if len(clients) > _SHOWN else "")
            lines.append(f"{count} {KINDS[kind]} [{kind}] in {where}; first: {issues[0]}")
        lines += [f"{count} images left out: {reason}" for reason, count in self.excluded.items()]
        return lines


def enforce(issues: Iterable[Issue], policy: str, remedy: str) -> tuple[Issue, ...]:
    """Returns the issues, to be listed, unless the policy is 'error'.

    Args:
        issues: The issues.
        policy: 'error' or anything else ('skip', 'keep').
        remedy: What the user can do about them, the end of the error's message.

    Raises:
        DataError: Under 'error', if there is any issue; it counts each kind and shows the first
            few, one a line.
    """
    found = tuple(issues)
    if not found or policy != "error":
        return found
    counts = DataIssues(found).counts()
    what = "; ".join(f"{count} {KINDS[kind]}" for kind, count in counts.items())
    shown = "".join(f"\n  {issue}" for issue in found[:_SHOWN])
    more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise DataError(f"{what}:{shown}{more}\n{remedy}")


def stop_on_faults(
    issues: Iterable[Issue], on_bad: str, unlabelled: str | None = None
) -> tuple[Issue, ...]:
    """Returns the issues, to be listed, unless some are faults that are to stop the run.

    Args:
        issues: The issues.
        on_bad: 'error' stops at unusable images, masks and clients.
        unlabelled: 'error' stops at images without label or mask; None treats them as ``on_bad``
            says.

    Raises:
        DataError: If a fault stops the run; see ``enforce``.
    """
    found = tuple(issues)
    faults = [issue for issue in found if issue.kind in FAULTS]
    apart = () if unlabelled is None else _UNLABELLED
    enforce((i for i in faults if i.kind not in apart), on_bad, _BAD_REMEDY)
    enforce((i for i in faults if i.kind in apart), unlabelled or on_bad, _UNLABELLED_REMEDY)
    return found


def refuse_empty(records: Sized, issues: Iterable[Issue], excluded: Mapping[str, int]) -> None:
    """Raises DataError if no record is left; it says what was skipped or left out, and why."""
    if not records:
        why = DataIssues(tuple(issues), excluded).summary() or ["the source lists none"]
        raise DataError(f"no usable image is left: {'; '.join(why)}")
