"""Shows figures: a table, a JSON file with machine and versions, and a plot."""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from tools.benchmarks.measure import Row
from ufm_jax.data.optional import needed_packages

WIDTH = 180
"""Columns of what is printed into a file."""

Draw = Callable[[Any], None]
"""Draws on a matplotlib Axes."""


class Figures(NamedTuple):
    """What a subcommand measured.

    Attributes:
        rows: The table; every row has the same columns.
        draw: Draws the plot; None where a plot would say nothing.
        notes: What a reader must know to read the figures.
        more: Further tables by title, none of them empty; likewise.
    """

    rows: list[Row]
    draw: Draw | None = None
    notes: tuple[str, ...] = ()
    more: Mapping[str, list[Row]] = MappingProxyType({})


def show(title: str, figures: Figures) -> None:
    """Prints the tables and their notes."""
    # A file has no width; rich takes 80 columns for it, which breaks wide tables.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for name, rows in {title: figures.rows, **figures.more}.items():
        table = Table(*rows[0], title=name)
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    for note in figures.notes:
        console.print(note, highlight=False)


def write(folder: Path, name: str, figures: Figures, settings: dict[str, Any]) -> None:
    """Writes ``name``.json and, where there is a plot, ``name``.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": settings,
        "machine": machine(),
        "figures": figures.rows,
        "more": dict(figures.more),
        "notes": figures.notes,
    }
    text = json.dumps(content, indent=2, default=str)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if figures.draw is None:
        return
    with needed_packages():
        from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    figures.draw(figure.add_subplot())
    figure.savefig(folder / f"{name}.png", dpi=120)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
    }
