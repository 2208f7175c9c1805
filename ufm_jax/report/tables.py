"""The report's tables: clients, and issues of the data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ufm_jax.data.issues import KINDS
from ufm_jax.report.axes import padded_range
from ufm_jax.report.charts import sparkline
from ufm_jax.report.client_curves import ClientCurves
from ufm_jax.report.markup import Child, Markup, element, join
from ufm_jax.report.numbers import UNKNOWN, count, fixed, percent, significant
from ufm_jax.runs.history import RoundRecord

_MOST_ISSUES, _MOST_LABELS = 40, 4


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its heading.
        cell: From a row to the content of its cell.
        text: Whether cells are text; numbers are right-aligned.
        style: From a row to the CSS of its cell, or None.
    """

    heading: str
    cell: Callable[[Any], Child]
    text: bool = False
    style: Callable[[Any], str] | None = None


def table(columns: Sequence[Column], rows: Sequence[Any]) -> Markup:
    """A table that scrolls sideways on narrow screens."""
    head = [_cell("th", column, column.heading) for column in columns]
    body = [
        element(
            "tr",
            *[
                _cell("td", column, column.cell(row), column.style and column.style(row))
                for column in columns
            ],
        )
        for row in rows
    ]
    return element(
        "div",
        element("table", element("thead", element("tr", *head)), element("tbody", *body)),
        class_="scroll",
    )


def client_table(
    history: Sequence[RoundRecord], curves: ClientCurves, data: Sequence[Mapping[str, Any]]
) -> Markup:
    """One row a client, the largest first: its ``data``, its training, its loss over the rounds."""
    rows = sorted(
        (_client_row(entry, history, curves, data) for entry in data),
        key=lambda row: -row["images"],
    )
    middle = np.quantile(finite, (0.01, 0.99)) if (finite := _finite(curves.loss)).size else finite
    y_range = padded_range(middle)
    rounds = np.array([record.round for record in history])
    columns = [
        Column("client", lambda row: row["client"], text=True),
        Column("images", lambda row: f"{row['images']:,}"),
        Column("share", lambda row: percent(row["share"], 1)),
        Column("groups", lambda row: _optional_count(row["groups"])),
        Column("labels", lambda row: row["labels"], text=True),
        Column("steps", lambda row: fixed(row["steps"], 0)),
        Column("loss", lambda row: f"{fixed(row['first'], 3)} → {fixed(row['last'], 3)}"),
        Column("loss by round", lambda row: sparkline(rounds, row["curve"], y_range), text=True),
        Column("held out", lambda row: f"{row['held_out']:,}"),
        Column("held-out loss", lambda row: fixed(row["judged"], 3)),
        Column("update norm", lambda row: significant(row["norm"])),
        Column("rejected", lambda row: _rejections(row["rejected"])),
    ]
    absent = set()  # columns that would say nothing
    if all(row["labels"] == UNKNOWN for row in rows):
        absent.add("labels")
    if all(row["groups"] in (None, row["images"]) for row in rows):
        absent.add("groups")
    if not any(row["held_out"] for row in rows):
        absent |= {"held out", "held-out loss"}
    note = (
        "Share: of all images. Steps and update norm: in the client’s last round. Loss: in its "
        "first and last. The small curves share one scale."
        + " Held out: images that nobody trains on, and the model’s loss on them at its last look."
        * ("held out" not in absent)
    )
    return join(
        table([column for column in columns if column.heading not in absent], rows),
        element("p", note, class_="note"),
    )


def describe_labels(labels: Mapping[str, int]) -> str:
    """The most frequent labels with their numbers of images, in words."""
    present = sorted((item for item in labels.items() if item[1]), key=lambda item: -item[1])
    shown = [f"{name} {number:,}" for name, number in present[:_MOST_LABELS]]
    rest = len(present) - len(shown)
    return ", ".join(shown + [f"{rest:,} more"] * (rest > 0)) or UNKNOWN


def issue_list(issues: Mapping[str, Any]) -> Markup:
    """Images of the data that were skipped or are doubtful, by kind.

    Args:
        issues: ``DataIssues.to_json()``: ``issues`` maps a kind to entries of client, path and
            reason, and ``excluded`` a reason to the number of images left out.
    """
    parts = [_issue_kind(kind, found) for kind, found in issues.get("issues", {}).items() if found]
    parts += [
        element("p", f"{count(number, 'image')} left out: {reason}.")
        for reason, number in issues.get("excluded", {}).items()
    ]
    return join(*parts) if parts else element("p", "None.")


def _issue_kind(kind: str, found: Sequence[Mapping[str, Any]]) -> Markup:
    what = KINDS.get(kind, kind)
    title = element("summary", f"{what[:1].upper()}{what[1:]}: ", element("b", f"{len(found):,}"))
    columns = [
        Column("client", lambda issue: issue["client"], text=True),
        Column("file", lambda issue: element("code", issue["path"]), text=True),
        Column("reason", lambda issue: issue["reason"], text=True),
    ]
    shown = table(columns, found[:_MOST_ISSUES])
    rest = len(found) - _MOST_ISSUES
    more = [element("p", f"The other {rest:,} are of the same kind.", class_="note")] * (rest > 0)
    return element("details", title, shown, *more)


def _client_row(
    entry: Mapping[str, Any],
    history: Sequence[RoundRecord],
    curves: ClientCurves,
    data: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    name = entry["client"]
    total = sum(row["images"] for row in data)
    k = curves.names.index(name)
    losses = _finite(curves.loss[k])
    return {
        "client": name,
        "images": entry["images"],
        "share": entry["images"] / total if total else 0.0,
        "groups": entry.get("groups"),
        "labels": describe_labels(entry.get("labels") or {}),
        "steps": _last(_finite(curves.steps[k])),
        "first": losses[0] if losses.size else np.nan,
        "last": _last(losses),
        "curve": curves.loss[k],
        "held_out": entry.get("held_out", 0),
        "judged": next((r.held_out[name] for r in reversed(history) if name in r.held_out), np.nan),
        "norm": _last(_finite(curves.update_norm[k])),
        "rejected": sum(name in record.rejected for record in history),
    }


def _cell(tag: str, column: Column, content: Child, style: str | None = None) -> Markup:
    return element(tag, content, class_=None if column.text else "number", style=style)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _last(values: np.ndarray) -> float:
    return float(values[-1]) if values.size else np.nan


def _optional_count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _rejections(times: int) -> Child:
    return element("b", times, class_="warn") if times else "0"
