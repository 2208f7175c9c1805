"""Tables as Markdown and as CSV."""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tools.suites.plan import Label, Suite
from tools.suites.table import Gap, GapRow, Row, Tables
from ufm_jax.data.csv_files import writing_csv
from ufm_jax.evaluation.results import Estimate
from ufm_jax.files import private_folder, write_text

TABLE_FILE = "table.md"
FIGURES_CSV = "table.csv"
GAPS_CSV = "differences.csv"
_NONE = "-"

Line = dict[str, str | int | float]
"""Column -> what stands there."""

_FEW = 4
"""Places that a note names; of more, it gives the number."""


def write_tables(out: Path, tables: Tables) -> str:
    """Writes table.md, table.csv and, where there are contrasts, differences.csv.

    Returns:
        The Markdown.
    """
    text = markdown(tables)
    private_folder(out)
    write_text(out / TABLE_FILE, text)
    _write_csv(out / FIGURES_CSV, [line for row in tables.rows for line in _records(row)])
    if tables.suite.contrasts:
        _write_csv(out / GAPS_CSV, [line for row in tables.gaps for line in _gap_records(row)])
    return text


def markdown(tables: Tables) -> str:
    """A table of figures and one of differences for each section, and how to read them."""
    suite, blocks = tables.suite, list[str]()
    for title, rows in by_section(suite, tables.rows):
        if not any(row.finished for row in rows):
            blocks.append(f"## {title}\n\nNo run is finished yet.")
            continue
        headings = _headings(suite, rows)
        counted = any((row.finished, row.planned) != (1, 1) for row in rows)
        blocks += [f"## {title}"] if title else []
        blocks.append(_table([_line(suite, row, headings, counted) for row in rows]))
        gaps = [row for row in tables.gaps if section_of(suite, row.labels) == title]
        if gaps:
            lines = [_gap_line(suite, row, headings, counted) for row in gaps]
            methods = "; ".join(dict.fromkeys(row.method for row in gaps))
            blocks += [f"Paired differences ({methods}):", _table(lines)]
        blocks += _remarks([*_row_remarks(rows, headings), *_gap_remarks(gaps, headings)])
    return "\n\n".join([*blocks, *_legend(tables)]) + "\n"


def section_of(suite: Suite, labels: Mapping[str, Label]) -> str:
    """Title of the section that labels belong to; '' where the suite has none."""
    return str(labels[suite.section]) if suite.section else ""


def by_section(suite: Suite, rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by section, sections in the order of their first row."""
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(section_of(suite, row.labels), []).append(row)
    return list(sections.items())


def _headings(suite: Suite, rows: Sequence[Row]) -> dict[str, str]:
    """Title -> heading of the figures that any row has, and that is defined in one of them."""
    shown = {
        title for row in rows for title, cell in row.cells.items() if not math.isnan(cell.value)
    }
    return {f.title: f.heading for f in suite.figures if f.title in shown}


def _line(suite: Suite, row: Row, headings: Mapping[str, str], counted: bool) -> Line:
    """A line of figures; ``counted`` says how many runs they rest upon."""
    figures = {
        heading: _estimate(row.cells[title]) if title in row.cells else _NONE
        for title, heading in headings.items()
    }
    count: Line = {"runs": f"{row.finished}/{row.planned}"} if counted else {}
    return _shown(suite, row.labels) | count | figures


def _gap_line(suite: Suite, row: GapRow, headings: Mapping[str, str], counted: bool) -> Line:
    """A line of differences; ``counted`` says how many pairs of runs they rest upon."""
    figures = {
        heading: _gap(row.cells[title]) if title in row.cells else _NONE
        for title, heading in headings.items()
    }
    beginning: Line = {"difference": str(row.contrast)}
    count: Line = {"pairs": row.finished} if counted else {}
    return beginning | _shown(suite, row.labels) | count | figures


def _shown(suite: Suite, labels: Mapping[str, Label]) -> Line:
    return {key: value for key, value in labels.items() if key != suite.section}


def _table(lines: Sequence[Line]) -> str:
    """A Markdown table; a line that lacks a column of others has a dash there."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    cells = [
        [str(line.get(column, _NONE)).replace("|", "\\|") for column in columns] for line in lines
    ]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *cells)
    )


def _estimate(estimate: Estimate) -> str:
    """'0.712 (0.650 to 0.770)'."""
    if math.isnan(estimate.value):
        return "undefined"
    return _numbers(estimate, "")


def _gap(gap: Gap) -> str:
    """'+0.031 (-0.002 to +0.064), p 0.07'; bold where the interval excludes 0."""
    gapped = gap.difference
    if math.isnan(gapped.value):
        return "undefined"
    text = _numbers(gapped, "+")
    if not math.isnan(gap.p_value):
        text += ", p " + (f"{gap.p_value:.2g}" if gap.p_value >= 0.001 else "< 0.001")
    return f"**{text}**" if gapped.low > 0 or gapped.high < 0 else text


def _numbers(estimate: Estimate, sign: str) -> str:
    """Value and interval, of four digits as far as the largest of them goes; counts as they are."""
    if math.isnan(estimate.low) and estimate.value.is_integer():
        return f"{estimate.value:{sign}.0f}"
    values = [estimate.value, estimate.low, estimate.high]
    known = [value for value in values if not math.isnan(value)]
    decimals = 3 - math.floor(math.log10(max(1, *map(abs, known))))
    value, *interval = (f"{number:{sign}.{max(0, decimals)}f}" for number in known)
    return f"{value} ({interval[0]} to {interval[1]})" if interval else value


def _row_remarks(rows: Sequence[Row], shown: Container[str]) -> Iterator[tuple[str, str]]:
    """Notes of the figures shown, and where they belong."""
    for row in rows:
        for title, estimate in row.cells.items():
            if estimate.note and title in shown:
                yield estimate.note, " ".join(map(str, row.labels.values())) + f", {title}"


def _gap_remarks(rows: Sequence[GapRow], shown: Container[str]) -> Iterator[tuple[str, str]]:
    for row in rows:
        place = " ".join(map(str, (row.contrast, *row.labels.values())))
        if row.note:
            yield row.note, place
        for title, gap in row.cells.items():
            if gap.difference.note and title in shown:
                yield gap.difference.note, f"{place}, {title}"


def _remarks(found: Iterable[tuple[str, str]]) -> list[str]:
    """Each note once, with its places while they are few, as one list."""
    places: dict[str, list[str]] = {}
    for note, place in found:
        places.setdefault(note, []).append(place)
    lines = [
        f"- {note}: {'; '.join(where) if len(where) <= _FEW else f'{len(where)} figures'}"
        for note, where in places.items()
    ]
    return ["\n".join(lines)] if lines else []


def _legend(tables: Tables) -> Iterator[str]:
    """How to read intervals."""
    suite = tables.suite
    if any(row.finished > 1 for row in tables.rows):
        chance = (
            "in training, on these test images"
            if suite.over == "seed"
            else f"in training and in which images a {suite.over} tests"
        )
        yield (
            f"Several runs: mean over {suite.over} and 95 % t interval, which says how far the "
            f"mean may be off by chance {chance}."
        )
    if any(row.finished == 1 for row in tables.rows):
        yield "One run: its own 95 % interval, which says how far other test images may differ."
    if tables.gaps:
        yield "Differences are bold where their 95 % interval excludes 0."


def _records(row: Row) -> Iterator[Line]:
    """A line of CSV for each figure of a row."""
    for title, estimate in row.cells.items():
        yield {**row.labels, "runs": row.finished, "planned": row.planned} | _fields(
            title, estimate
        )


def _gap_records(row: GapRow) -> Iterator[Line]:
    for title, gap in row.cells.items():
        contrast = row.contrast
        beginning: Line = {"label": contrast.label, "first": contrast.first}
        beginning |= {"second": contrast.second, **row.labels, "pairs": row.finished}
        ending: Line = {"p": gap.p_value, "test": row.method, "remark": row.note}
        yield beginning | _fields(title, gap.difference) | ending


def _fields(title: str, estimate: Estimate) -> Line:
    numbers: Line = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"figure": title, **numbers, "n": estimate.n, "note": estimate.note}


def _write_csv(path: Path, lines: Sequence[Line]) -> None:
    """A long table, one figure a line; nan is an empty field."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    with writing_csv(path, columns) as add:
        for line in lines:
            cells = (line.get(column, "") for column in columns)
            add("" if cell != cell else cell for cell in cells)
