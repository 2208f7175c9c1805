"""The policies for what is wrong with labels, masks and splits."""

from collections.abc import Iterable

from ufm_jax.data.issues import FAULTS, Issue, enforce

_BAD_REMEDY = "Mend or remove them, or set on_bad='skip' to leave them out and list them"
_UNLABELLED_REMEDY = "Label them, or set unlabelled='skip' to leave them out and list them"
_UNLABELLED = ("no_label", "no_mask")


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
    faults = [issue for issue in found if issue.kind in FAULTS]
    enforce((i for i in faults if i.kind not in _UNLABELLED), on_bad, _BAD_REMEDY)
    enforce((i for i in faults if i.kind in _UNLABELLED), unlabelled, _UNLABELLED_REMEDY)
    return found
