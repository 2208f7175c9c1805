"""The page by which a person checks an export: counts, and what was kept of each file."""

from collections import Counter
from collections.abc import Mapping

from tools.hospital.export import INDEX, OVERVIEWS, Export, File
from ufm_jax.data.issues import KINDS
from ufm_jax.report.markup import Markup, definitions, element
from ufm_jax.report.numbers import count
from ufm_jax.report.page import document
from ufm_jax.report.sections import section
from ufm_jax.report.tables import Column, table


def render(export: Export) -> str:
    """The page's HTML; its pictures lie beside it."""
    files = export.files
    images = sum(file.images for file in files)
    figures = [
        ("images", f"{images:,}"),
        ("files", f"{len(files):,}"),
        ("clients", f"{len({file.client for file in files}):,}"),
        ("groups", f"{export.groups:,}"),
        ("in mm", f"{sum(bool(file.images and file.scan and file.scan.mm) for file in files):,}"),
        ("files left out", f"{sum(not file.images for file in files):,}"),
    ]
    text = (
        f"{count(images, 'image')} of {count(len(files), 'file')}, as {INDEX} lists them. Look at "
        "each picture below before anything leaves the site: text inside the scan stays, and no "
        "program can promise that it found the scan. Amber is what was bright outside of it and is "
        "black in the images."
    )
    return document(
        "Images for training",
        "What was kept, blackened and left out",
        section("Summary", definitions(figures, "figures"), element("p", text)),
        section("Left out", _left_out(export)),
        section("Every file", element("div", *map(_figure, files), class_="sheet")),
    )


def reasons(export: Export) -> Mapping[str, int]:
    """Files, and frames, for which no image was written, by reason."""
    found: Counter[str] = Counter()
    for file in export.files:
        if file.fault:
            found[KINDS[file.fault]] += 1
        found["frames with the pixels of another image of the client"] += file.copies
        if file.scan and not file.fault:
            left = file.scan.frames - len(file.scan.kept)
            found["frames that hardly differ from the one before, or were not asked for"] += left
    for kind, number in export.others.items():
        found[KINDS[kind]] += number
    found["rows of the labels that are of no file"] += export.unmatched
    return {reason: number for reason, number in found.items() if number}


def _left_out(export: Export) -> Markup:
    rows = sorted(reasons(export).items(), key=lambda row: -row[1])
    if not rows:
        return element("p", "Nothing.")
    columns = [
        Column("what", lambda row: row[0], text=True),
        Column("number", lambda row: f"{row[1]:,}"),
    ]
    return table(columns, rows)


def _figure(file: File) -> Markup:
    scan = file.scan
    if scan is None:
        return element("figure", element("figcaption", f"{file.number}: {KINDS[file.fault]}"))
    kept = f"{file.images} of {count(scan.frames, 'frame')}", f"by {scan.scan_by}"
    scale = f"{scan.mm:.3g} mm a pixel" if scan.mm else "no scale"
    facts = [KINDS[file.fault]] if file.fault else [*kept, scale]
    caption = f"{file.number}: {', '.join([*facts, *scan.doubts])}"
    picture = element("img", src=f"{OVERVIEWS}/{file.number:06}.png", alt=caption, loading="lazy")
    return element("figure", picture, element("figcaption", caption))
