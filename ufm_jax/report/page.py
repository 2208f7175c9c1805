"""The report of a training run, and how any report becomes a file."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ufm_jax.files import replacing
from ufm_jax.objectives.pictures import Pictures
from ufm_jax.report import costs, gallery, sections
from ufm_jax.report.client_curves import client_curves
from ufm_jax.report.markup import Markup, element, join
from ufm_jax.report.run_info import RunInfo
from ufm_jax.report.tables import client_table, issue_list
from ufm_jax.runs.history import RoundRecord

REPORT_FILE = "report.html"


def render(
    run: RunInfo,
    history: Sequence[RoundRecord],
    data: Sequence[Mapping[str, Any]],
    issues: Mapping[str, Any],
    pictures: Pictures | None,
) -> str:
    """The HTML of a training run's report, a page that needs nothing but itself.

    Args:
        run: Facts about the run.
        history: Its rounds, at least one.
        data: One row a client of the federation: client, images, groups, labels.
        issues: What was skipped or doubtful in the data (``DataIssues.to_json()``).
        pictures: Example images, or None.

    Raises:
        ValueError: If the history is empty or names a client that ``data`` does not.
    """
    if not history:
        raise ValueError(f"the history of {run.name!r} is empty: train at least one round first")
    curves = client_curves(history, [row["client"] for row in data])
    return document(
        run.name,
        f"Training report, {run.created}",
        sections.summary(run, history, data),
        sections.held_out(run, history, data),
        sections.training(history, curves),
        sections.section("Clients", client_table(history, curves, data)),
        sections.schedule(run, history[-1]),
        costs.communication(history),
        costs.virtual_clock(history),
        _pictures(pictures),
        sections.section("Data issues", issue_list(issues)),
        sections.configuration(run.config, {"device": run.device, **run.versions}),
    )


def document(title: str, subtitle: str, *parts: Markup) -> str:
    """A whole page.

    Args:
        title: Its name, and its first heading.
        subtitle: Below the heading.
        *parts: The sections.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} – report"),
        element("style", _asset("style.css")),
    )
    header = element("header", element("h1", title), element("p", subtitle))
    body = element("body", element("main", header, *parts), element("script", _asset("script.js")))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def write_page(workdir: Path, page: str) -> Path:
    """Writes a page as ``report.html`` into a folder, whole or not at all, and returns its path."""
    path = workdir / REPORT_FILE
    with replacing(path) as partial:
        # Names of files and clients need not be UTF-8; a page must be.
        partial.write_text(page, encoding="utf-8", errors="replace")
    return path


def _asset(name: str) -> Markup:
    """A file of this package, to stand in the page as it is."""
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _pictures(pictures: Pictures | None) -> Markup:
    parts = []
    if pictures and pictures.captions:
        parts += [gallery.reconstructions(pictures), gallery.textures(pictures)]
    if pictures and pictures.thumbnails:
        parts.append(gallery.montage(pictures.thumbnails))
    return join(*parts) if parts else gallery.no_pictures()
