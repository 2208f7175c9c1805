"""The plot of a suite: for each section and figure a panel of values and intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.suites.output import by_section
from tools.suites.plan import Figure, Label, Suite
from tools.suites.table import Row, Tables
from ufm_jax.data.optional import needed_packages
from ufm_jax.files import replacing

PLOT_FILE = "table.svg"
_OFFSET = 0.16
"""Between values that share a line, in lines."""


def write_plot(out: Path, tables: Tables) -> Path | None:
    """Draws the figures that there are so far.

    The values of the label that the first contrast is about have a colour each and share a line.

    Returns:
        The file; None where there is nothing to draw.

    Raises:
        DataError: If matplotlib is not installed.
    """
    with needed_packages():
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    suite = tables.suite
    panels = [
        [(title, rows, figure) for figure in suite.figures if figure.drawn and _has(rows, figure)]
        for title, rows in by_section(suite, tables.rows)
    ]
    panels = [row for row in panels if row]
    if not panels:
        return None
    lines = [len(set(_lines(suite, row[0][1]))) for row in panels]
    width = max(len(row) for row in panels)
    size = (2.5 + 2.9 * width, sum(1.1 + 0.3 * count for count in lines) + 0.5)
    canvas = Canvas(figsize=size, layout="constrained")
    ratios = [1 + 0.3 * count for count in lines]
    grid = canvas.subplots(len(panels), width, squeeze=False, height_ratios=ratios)
    for axes, row in zip(grid, panels, strict=True):
        for axis in axes[len(row) :]:
            axis.set_visible(False)
        for column, (axis, (title, rows, figure)) in enumerate(zip(axes, row, strict=False)):
            _draw(axis, suite, rows, figure, names=column == 0)
            axis.set_title(title if column == 0 else "", loc="left", fontsize=9)
    handles, names = grid[0][0].get_legend_handles_labels()
    if any(names):
        canvas.legend(handles, names, loc="outside upper right", ncols=len(names), fontsize=8)
    # Equal tables give equal files: no date, and names of elements from no random number.
    with matplotlib.rc_context({"svg.hashsalt": "suite"}), replacing(out / PLOT_FILE) as partial:
        canvas.savefig(partial, format="svg", metadata={"Date": None})
    return out / PLOT_FILE


def _draw(axis: Any, suite: Suite, rows: Sequence[Row], figure: Figure, names: bool) -> None:
    """One panel: lines from top to bottom in the order of the table."""
    lines = list(dict.fromkeys(_lines(suite, rows)))
    colours = _colours(suite)
    for row, line in zip(rows, _lines(suite, rows), strict=True):
        estimate = row.cells.get(figure.title)
        if estimate is None or math.isnan(estimate.value):
            continue
        value = row.labels.get(_colour_label(suite))
        place = list(colours).index(value) - (len(colours) - 1) / 2
        bar = None
        if not math.isnan(estimate.low):
            bar = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        axis.errorbar(
            [estimate.value],
            [lines.index(line) + _OFFSET * place],
            xerr=bar,
            fmt="o",
            markersize=4,
            linewidth=1.2,
            color=colours[value],
        )
    for value, colour in colours.items():
        label = "" if value is None else str(value)
        axis.plot([], [], "o", markersize=4, color=colour, label=label)
    axis.set_yticks(range(len(lines)), lines if names else [], fontsize=8)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(figure.heading, fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _has(rows: Sequence[Row], figure: Figure) -> bool:
    cells = (row.cells.get(figure.title) for row in rows)
    return any(cell is not None and not math.isnan(cell.value) for cell in cells)


def _lines(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """What stands beside each row: its labels, but for those shown otherwise."""
    hidden = {suite.section, _colour_label(suite)}
    return [
        ", ".join(str(value) for key, value in row.labels.items() if key not in hidden)
        for row in rows
    ]


def _colour_label(suite: Suite) -> str:
    return suite.contrasts[0].label if suite.contrasts else ""


def _colours(suite: Suite) -> Mapping[Label | None, str]:
    """A colour for each value of the label that is told by colour; for None if no label is."""
    label = _colour_label(suite)
    values = dict.fromkeys(run.labels.get(label) for run in suite.runs if run.labels)
    return {value: f"C{index}" for index, value in enumerate(values)}
