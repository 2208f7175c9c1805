"""Who holds what: prints, plots and writes how images, groups and labels lie over the clients.

    python -m tools.partition_report --source index --root DATA --partition dirichlet --alpha 0.3

takes every setting of `ufm_jax.data.settings.DataSettings` as a flag, loads the federation as a
training run would (the decoded images stay in the cache for it), and writes partition.json and
partition.png to --out.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ufm_jax.bars import progress_bar
from ufm_jax.config.command import path_argument
from ufm_jax.data.federated import FederatedData, load_federated
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.settings import DataSettings
from ufm_jax.door import enter, say
from ufm_jax.errors import printable
from ufm_jax.files import private_folder, replacing, write_json

_UNLABELLED = "(none)"
_WIDTH_IN_FILES = 160


def shannon_bits(counts: np.ndarray) -> float:
    """Entropy in bits of a histogram [L]; 0 if it is empty."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def describe(data: FederatedData) -> dict[str, Any]:
    """Collects the figures of the report, ready for JSON.

    Per client: images, groups, share (its FedAvg weight in a full cohort), labels, and of its
    labelled images the entropy in bits, the effective number of labels 2**entropy, and the skew:
    the total variation distance (0..1) to the labels of all clients together. Over all: the
    effective number of clients 1 / sum(share**2), which is K for equal sizes.

    Args:
      data: a loaded federation.

    Returns:
      'clients', 'total' and 'issues'.
    """
    rows = list(data.summary())
    table = np.array([list(row.labels.values()) for row in rows], float)
    everybody = table.sum(0) / max(1.0, table.sum())
    clients = []
    for row, counts in zip(rows, table, strict=True):
        bits = shannon_bits(counts)
        labelled = counts.sum()
        skew = float(np.abs(counts / labelled - everybody).sum() / 2) if labelled else None
        clients.append(
            {
                "client": row.client,
                "images": row.images,
                "groups": row.groups,
                "share": row.share,
                "labels": row.labels,
                "unlabelled": row.unlabelled,
                "label_entropy_bits": bits if labelled else None,
                "effective_labels": 2**bits if labelled else None,
                "label_skew": skew,
            }
        )
    shares = np.array([row.share for row in rows])
    total = {
        "clients": data.num_clients,
        "images": data.num_rows,
        "groups": len(np.unique(data.groups)),
        "effective_clients": float(1 / (shares**2).sum()),
        "largest_to_smallest": float(data.sizes.max() / data.sizes.min()),
        "label_entropy_bits": shannon_bits(table.sum(0)) if table.sum() else None,
    }
    return {"total": total, "clients": clients, "issues": data.issues.to_json()}


def print_table(report: dict[str, Any], console: Console) -> None:
    """Prints one line a client and one for all."""
    table = Table(title="Who holds what")
    table.add_column("client", no_wrap=True)
    for name in ("images", "share", "groups", "unlabelled", "entropy", "eff. labels", "skew"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for row in report["clients"]:
        labels = ", ".join(f"{name} {count}" for name, count in row["labels"].items() if count)
        table.add_row(
            Text(printable(row["client"])),
            str(row["images"]),
            f"{row['share']:.1%}",
            str(row["groups"]),
            str(row["unlabelled"]),
            _figure(row["label_entropy_bits"], " bit"),
            _figure(row["effective_labels"]),
            _figure(row["label_skew"]),
            Text(printable(labels)),
        )
    console.print(table)
    total = report["total"]
    console.print(
        f"{total['images']} images in {total['groups']} groups at {total['clients']} clients; "
        f"effective number of clients {total['effective_clients']:.1f}; "
        f"largest : smallest = {total['largest_to_smallest']:.1f}"
    )


def _figure(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.2f}{unit}"


def plot(report: dict[str, Any], path: Path) -> None:
    """Draws images a client by label and, where there are labels, their mixture.

    Args:
        report: What ``describe`` returns.
        path: PNG to write.

    Raises:
        DataError: If matplotlib is not installed.
    """
    with needed_packages():
        import matplotlib
    with matplotlib.rc_context({"text.parse_math": False}):  # A name may hold $.
        figure = _drawn(report, matplotlib.colormaps)
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=120)


def _drawn(report: dict[str, Any], colormaps: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    clients, total = report["clients"], report["total"]
    labels = list(clients[0]["labels"])
    counts = np.array([[*row["labels"].values(), row["unlabelled"]] for row in clients], float)
    bars = dict(
        zip(
            [*labels, _UNLABELLED],
            zip(_palette(colormaps, len(labels)), counts.T, strict=True),
            strict=True,
        )
    )
    bars = {name: (colour, widths) for name, (colour, widths) in bars.items() if widths.any()}
    figure = Figure(figsize=(12 if labels else 7, 1.8 + 0.28 * len(clients)), layout="constrained")
    axes = figure.subplots(1, 2 if labels else 1, sharey=True, squeeze=False)[0]
    sizes = counts.sum(1)
    _stack(axes[0], bars, np.ones_like(sizes))
    axes[0].bar_label(axes[0].containers[-1], [f"{size:.0f}" for size in sizes], padding=3)
    axes[0].set_xlim(0, 1.12 * sizes.max())
    axes[0].set_xlabel("images")
    axes[0].set_yticks(range(len(clients)), [printable(row["client"]) for row in clients])
    axes[0].margins(y=0.02)
    axes[0].invert_yaxis()
    if labels:
        _stack(axes[1], bars, sizes)
        axes[1].set_xlim(0, 1)
        axes[1].set_xlabel("share of the client's images")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle(
        f"{total['images']} images, {total['groups']} groups, {total['clients']} clients "
        f"(effectively {total['effective_clients']:.1f})"
    )
    return figure


def _palette(colormaps: Mapping[str, Any], num_labels: int) -> list[tuple[float, ...]]:
    """A colour for each label, and grey for no label."""
    if num_labels <= 20:
        colours = colormaps["tab20"](np.arange(num_labels))
    else:
        colours = colormaps["nipy_spectral"](np.linspace(0.05, 0.95, num_labels))
    return [*map(tuple, colours), (0.8, 0.8, 0.8, 1.0)]


def _stack(axis: Any, bars: dict[str, tuple[Any, np.ndarray]], divisor: np.ndarray) -> None:
    """Draws one horizontal stack a client; widths [K] of each bar are divided by `divisor` [K]."""
    left = np.zeros(len(divisor))
    for name, (colour, widths) in bars.items():
        axis.barh(
            range(len(divisor)), widths / divisor, left=left, color=colour, label=printable(name)
        )
        left += widths / divisor
    axis.spines[["top", "right"]].set_visible(False)


def parser() -> argparse.ArgumentParser:
    """A flag for each field of `DataSettings`, and --out."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--out", type=path_argument, default=Path("runs/partition"), help="folder to write to"
    )
    hints = get_type_hints(DataSettings)
    for field in fields(DataSettings):
        hint, default = hints[field.name], field.default
        options: dict[str, Any] = {"default": default}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is tuple:
            options["nargs"] = "*"
        elif get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
            options["type"] = lambda text: int(text) if text.isdecimal() else text
        else:
            options["type"] = hint
        made.add_argument(f"--{field.name}", help=f"default: {default!r}", **options)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads, prints, plots and writes."""
    given = vars(parser().parse_args(arguments))
    out: Path = given.pop("out")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    # A file or a pipe has no width of its own, and 80 columns would fold the table.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_FILES)
    with progress_bar("decoding") as show:
        data = load_federated(DataSettings(**values), show)
    report = describe(data)
    print_table(report, console)
    for line in data.issues.summary():
        say(line)
    private_folder(out)
    write_json(out / "partition.json", report)
    plot(report, out / "partition.png")
    say(f"written: {out / 'partition.json'}, {out / 'partition.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
