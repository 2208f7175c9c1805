"""Mutated tables say what they said before where only their writing changed, or are refused.

Half of the mutations change no meaning: blanks, Unicode forms, byte order marks, ends of lines,
quotes, 1.0 for 1, empty lines and columns, the order of rows and columns. The other half may change
anything; then the outcome is a result that tears no group, or an error of one line with a name.
"""

import csv
import io
import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.labels.label_settings import label_settings
from tests.fuzz.conftest import count
from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import UserError, one_line
from ufm_jax.evaluation.predictions_csv import read_table
from ufm_jax.evaluation.readers import read_calls
from ufm_jax.train.participation import read_trace

PATIENTS, SECONDS, WIDTH, HEIGHT = 6, 5, 32, 24
IMAGES = tuple(f"images/{i}, ünï.png" for i in range(2 * PATIENTS))
CLASSES, CLIENTS = ("bénin", "malin"), ("nörd", "1", "süd")
BLANKS = ("", " ", "\t", "  ", "\u00a0", "\u3000", "\ufeff", "\u200b")
MISSING = ("NA", "nan", "N/A", "NULL", "None", " NaN ")
HOSTILE = (
    *("", " ", "NA", "-", "?", "0", "1", "2", "01", "1.0", "-1", "1e3", "1e300", "1e-300", "1e999"),
    *("inf", "0,25", "1,024", "1.024,5", "9" * 400, "9" * 5000, "1" * 100_000 + "x", "٣", "²"),
    *("=1+1", "'=1", "'", '"', "\n", "a\nb", "a\rb", "\x1b[31m", "\x07", "\0", "\u2028", "\ud800"),
    *("..", ".", "/", "~", "/etc/passwd", "../x.png", "images", IMAGES[0], "x" * 300, "x" * 10**5),
    *("x" * 200_000, "x " * 50_000, "x= " * 30_000, "train", "val", "test", "True", "İ"),
    *("note_mm=1e300", "note_mm=x", "note_mm =2", "set", "image", "label", "group", *CLASSES),
)
NAMED = re.compile(r"images/|split[.s' ]|exclude|partition|clients|classes|finding|group '")
"""What an error names where it does not name a file or folder: an image, a setting, a group."""


@dataclass(frozen=True)
class Table:
    """A kind of table.

    Attributes:
      path: where it lies.
      rows: the header and the rows; of a list, its lines.
      read: what comes of the file, as a value that can be compared.
      numbers: columns of numbers, which a spreadsheet may write with a decimal comma.
      exact: columns whose cells are names as they are, in a table of our own, whose columns stay
        in order.
      ordered: whether the order of the rows means something.
      columns: whether commas separate cells.
    """

    path: Path
    rows: tuple[tuple[str, ...], ...]
    read: Callable[[Path], object]
    numbers: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    ordered: bool = False
    columns: bool = True


Rows = list[list[str]]


def whole_in(parts: np.ndarray, groups: np.ndarray) -> bool:
    """Whether each group lies in one part."""
    return all(len(np.unique(parts[groups == group])) == 1 for group in np.unique(groups))


def labelled(settings: LabelSettings, path: Path) -> object:
    """Group, split, classes, spacing and client of each image."""
    data = load_labelled(settings)
    column = settings.group_column or "group"
    rows = zip(data.names, data.attributes, strict=True)
    patients = [cells.get(column) or name for name, cells in rows]
    assert whole_in(data.splits, data.groups)
    assert whole_in(data.splits, np.array(patients))
    assert whole_in(np.searchsorted(data.offsets, np.arange(data.num_rows), "right"), data.groups)
    assert (np.isnan(data.spacing) | ((data.spacing > 0) & np.isfinite(data.spacing))).all()
    client = np.repeat(data.clients, np.diff(data.offsets))
    shown = [str(dict(zip(data.task.classes, row, strict=True))) for row in data.targets.tolist()]
    groups = [data.group_names[group] for group in data.groups]
    facts = zip(groups, data.splits, shown, data.spacing.astype(str), client, strict=True)
    return dict(zip(data.names, facts, strict=True))


def federated(settings: DataSettings, path: Path) -> object:
    """The images of each client with their labels, and which images are of one group."""
    data = load_federated(settings)
    clients = np.repeat(data.names, data.sizes)
    assert whole_in(clients, data.groups)
    # Each image has a grey of its own.
    greys = data.store.read(np.arange(data.num_rows))["image"][:, 0, 0, 0]
    labels = [data.label_names[label] if label >= 0 else "" for label in data.labels]
    groups = {tuple(sorted(greys[data.groups == group].tolist())) for group in data.groups}
    return sorted(zip(clients.tolist(), greys.tolist(), labels, strict=True)), sorted(groups)


def facts(value: object) -> object:
    """Predictions as texts, in which nan equals nan."""
    if is_dataclass(value):
        return {field.name: facts(getattr(value, field.name)) for field in fields(value)}
    return str(np.asarray(value).tolist())


def calls(path: Path) -> object:
    found = read_calls(path, IMAGES, CLASSES)
    return found.readers, found.calls.tolist()


def index_rows() -> tuple[tuple[str, ...], ...]:
    """A header and a row an image, of all columns that some task reads."""
    header = (
        *("image", "mask", "label", "site", "patient", "group", "split", "fold5"),
        *("px_mm", "orig_width", "orig_height", "notes", "kyste", "masse", "remark"),
    )
    rows = [header]
    for i, image in enumerate(IMAGES):
        patient = i // 2
        split = ("train", "train", "train", "val", "test", "test")[patient]
        known = i % 3 > 0
        rows.append(
            (
                *(image, image.replace("images", "masks"), CLASSES[patient % 2]),
                *(("süd", "nörd")[patient % 2], str(patient + 1), f"é{patient}", split),
                *(str(patient % 3), *(("0.5", "1024", "768") if known else ("", "", ""))),
                *(f"probe=convex; note_mm=0.{i + 1} by=hand", str(i % 2), ("", "1", "0")[i % 3]),
                "",
            )
        )
    return tuple(rows)


def trace_rows() -> tuple[tuple[str, ...], ...]:
    return (CLIENTS, *(tuple(str((i >> k) & 1) for k in range(3)) for i in range(1, 8)))


def reader_rows() -> tuple[tuple[str, ...], ...]:
    found = [("image", "reader", "call")]
    for number, reader in enumerate(("Li", "Müller", "3")):
        found += [(n, reader, (*CLASSES, "0", "1")[(i + number) % 4]) for i, n in enumerate(IMAGES)]
    return tuple(found)


def prediction_rows(kind: str) -> tuple[tuple[str, ...], ...]:
    """A table of a diagnosis, of findings or of a segmentation."""
    start = [(n, "nörd", str(i // 2)) for i, n in enumerate(IMAGES)]
    share = [(f"{i / 16}", f"{1 - i / 16}") for i in range(len(IMAGES))]
    names = ("image", "client", "group")
    probs = tuple(f"prob_{name}" for name in CLASSES)
    if kind == "single":
        header = (*names, "label", "called", *probs)
        cells = [(CLASSES[i % 2], CLASSES[i // 2 % 2]) for i in range(len(IMAGES))]
    elif kind == "multi":
        header = (*names, *(f"label_{name}" for name in CLASSES), "called", *probs)
        called = ("bénin;malin", "malin", "")
        cells = [(("", "0", "1")[i % 3], str(i % 2), called[i % 3]) for i in range(len(IMAGES))]
    else:
        scores = ("dice", "iou", "hd95_px", "assd_px", "hd95_mm", "assd_mm")
        header = (*names, *(f"{score}_tête" for score in scores))
        header += ("pixels_tête", "reference_pixels_tête", "measured_mm", "reference_mm")
        cells = [(*share[i], "2.5", "1.25", "", "", "1024", "768") for i in range(len(IMAGES))]
    return (header, *(a + b + c for a, b, c in zip(start, cells, share, strict=True)))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, list[Table]]:
    """The kinds of tables by what reads them, with their images."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("images", "masks", "lists"):
        (root / folder).mkdir()
    for i, name in enumerate(IMAGES):
        Image.fromarray(np.full((HEIGHT, WIDTH), 20 + 15 * i, np.uint8)).save(root / name)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: 1 + i] = 1
        Image.fromarray(mask).save(root / name.replace("images", "masks"))
    data = DataSettings(
        source="index",
        root=str(root),
        working_size=8,
        channels=1,
        detect_geometry=False,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        num_workers=1,
    )
    fractions = SplitSettings("fractions", val_fraction=0.3, test_fraction=0.3)
    skip = replace(data, on_bad="skip", client_columns=("site",))
    settings = (
        label_settings(data),
        label_settings(skip, fractions, group_column="patient", spacing_key="note_mm"),
        label_settings(data, SplitSettings("fold", test_fold=1), unlabelled="skip"),
        label_settings(skip, kind="multi", label_columns=("kyste", "masse"), leave_out=()),
        label_settings(replace(data, partition="dirichlet", num_clients=2), kind="segment"),
    )
    pretraining = (
        (skip, False),
        (replace(data, client_columns=("site",), splits=("train", "val")), False),
        (replace(data, partition="iid", num_clients=3, exclude=("fold5=1",)), True),
        (replace(skip, partition="dirichlet", num_clients=2), True),
    )
    numbers = ("px_mm", "orig_width", "orig_height")
    index = Table(root / "index.csv", index_rows(), labelled, numbers)
    lists = replace(data, source="lists", lists="lists", on_bad="skip")
    (root / "lists/client_2.txt").write_text("\n".join(IMAGES[6:]), encoding="utf-8")
    lines = tuple((name,) for name in IMAGES[:6])
    tmp = tmp_path_factory.mktemp("tables")
    trace = partial(read_trace, names=CLIENTS)
    return {
        "labelled": [replace(index, read=partial(labelled, each)) for each in settings],
        "pretraining": [
            replace(index, read=partial(federated, each), ordered=ordered)
            for each, ordered in pretraining
        ],
        "lists": [
            Table(root / "lists/client_1.txt", lines, partial(federated, each), columns=False)
            for each in (lists, replace(lists, on_bad="error"))
        ],
        "traces": [
            Table(tmp / "trace.csv", trace_rows(), lambda path: trace(path).tolist(), ordered=True)
        ],
        "readers": [Table(tmp / "readers.csv", reader_rows(), calls)],
        "predictions": [
            Table(
                tmp / "predictions.csv",
                prediction_rows(kind),
                lambda path: facts(read_table(path)),
                numbers=prediction_rows(kind)[0][4:],
                exact=("image", "client", "called"),
                ordered=True,
            )
            for kind in ("single", "multi", "segment")
        ],
    }


def respelt(rng: random.Random, cell: str, number: bool) -> str:
    """The same cell as another program writes it."""
    ways = [f"{rng.choice(BLANKS)}{cell}{rng.choice(BLANKS)}", unicodedata.normalize("NFD", cell)]
    if not cell:
        ways += MISSING
    if cell.isdecimal():
        ways += [f"{cell}.0", f"{cell}.00"]
    if number and re.fullmatch(r"\d\.\d+", cell):
        ways.append(cell.replace(".", ","))
    if number and cell.isdecimal():
        ways.append(f"{int(cell):,}")
    return rng.choice(ways)


def rewritten(rng: random.Random, table: Table) -> bytes:
    """A table of the same meaning."""
    rows = [list(row) for row in table.rows]
    for row in range(len(rows)):
        for column, name in enumerate(table.rows[0]):
            heading = table.columns and row == 0
            if rng.random() < 0.2 and (heading or not table.columns or name not in table.exact):
                number = not heading and name in table.numbers
                rows[row][column] = respelt(rng, rows[row][column], number)
    header, body = (rows[:1], rows[1:]) if table.columns else ([], rows)
    if not table.ordered and rng.random() < 0.5:
        rng.shuffle(body)
    if table.columns:
        rows = header + body
        if rng.random() < 0.3:
            place = rng.randrange(len(header[0]) + 1)
            for row in rows:
                row.insert(place, rng.choice(BLANKS))
        if not table.exact and rng.random() < 0.5:
            order = rng.sample(range(len(header[0])), len(header[0]))
            rows = [[row[column] for column in order] for row in rows]
        header, body = rows[:1], rows[1:]
    for _ in range(rng.randrange(3)):
        nothing = rng.choice(([], [""] * len(header[0]))) if header else [rng.choice(BLANKS)]
        body.insert(rng.randrange(len(body) + 1), list(nothing))
    return written(rng, table, header + body)


def written(rng: random.Random, table: Table, rows: Rows) -> bytes:
    """A file of rows, with or without a byte order mark, and with any end of lines."""
    end = rng.choice(("\n", "\r\n", "\r"))
    if table.columns:
        file = io.StringIO()
        quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        csv.writer(file, lineterminator=end, quoting=quoting).writerows(rows)
        text = file.getvalue()
    else:
        text = end.join("".join(row) for row in rows) + rng.choice(("", end))
    return rng.choice((b"", b"\xef\xbb\xbf")) + text.encode("utf-8", "surrogatepass")


def with_cells(rng: random.Random, rows: Rows) -> None:
    """A few cells say something else."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.choice(rows[rng.random() < 0.9 :] or rows)
        if row:
            other = rng.choice(rng.choice(rows) or [""])
            row[rng.randrange(len(row))] = rng.choice((other, *rng.choices(HOSTILE, k=3)))


def with_column(rng: random.Random, rows: Rows) -> None:
    """A whole column says one thing, or nothing."""
    column, cell = rng.randrange(len(rows[0])), rng.choice(HOSTILE)
    for row in rows[1:]:
        row[column : column + 1] = [cell]


def with_columns(rng: random.Random, rows: Rows) -> None:
    """A column twice, gone, without a name, or under the name of another."""
    column, other = (rng.randrange(len(rows[0])) for _ in range(2))
    match rng.randrange(5):
        case 0:
            for row in rows:
                row.append(row[column])
        case 1:
            for row in rows:
                del row[column]
        case 2:
            rows[0][column] = rng.choice(("", " ", "nan", "set", "patient", "Group", "prob_", "a"))
        case 3:
            rows[0][column], rows[0][other] = rows[0][other], rows[0][column]
        case 4:
            name = rng.choice(("set", "group", "patient", "split", "note_mm", "prob_x"))
            for number, row in enumerate(rows):
                row.append(name if number == 0 else rng.choice((row[column], row[other])))


def with_rows(rng: random.Random, rows: Rows) -> None:
    """Rows that are short, long, twice, gone or exchanged; a header twice or gone."""
    place = rng.randrange(len(rows))
    match rng.randrange(7):
        case 0:
            del rows[place][rng.randrange(len(rows[place])) :]
        case 1:
            rows[place] += ["x"] * rng.choice((1, 1, 1000))
        case 2:
            rows.insert(rng.randrange(len(rows) + 1), list(rows[place]))
        case 3:
            del rows[place:]
        case 4:
            del rows[place]
        case 5:
            rng.shuffle(rows[place])
        case 6:
            rows[:] = rows[:1] + rng.sample(rows[1:], rng.randrange(len(rows)))


def with_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bits and bytes that are others, gone or too many, or another encoding."""
    changed, place = bytearray(content), rng.randrange(len(content) or 1)
    match rng.randrange(7):
        case 0 if content:
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            del changed[place : place + rng.randrange(1, 40)]
        case 3:
            inserted = (b"\0", b'"', b",", b"\r", b"\n", b"\xef\xbb\xbf", b"\x1a", b"\x85", b"'")
            changed[place:place] = rng.choice((*inserted, rng.randbytes(9)))
        case 4:
            kind = rng.choice(("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "cp037"))
            return content.decode("utf-8", "replace").encode(kind, "replace")
        case 5:
            return content.replace(b",", rng.choice((b";", b"\t", b"|", b", ")))
        case 6:
            changed[place:place] = content[: rng.randrange(len(content) or 1)]
    return bytes(changed)


def mutated(rng: random.Random, table: Table) -> bytes:
    """A table of another meaning, or of none."""
    rows = [list(row) for row in table.rows]
    change = rng.choice((with_cells, with_cells, with_column, with_columns, with_rows, with_bytes))
    if change is with_bytes:
        return with_bytes(rng, written(rng, table, rows))
    change(rng, rows)
    return written(rng, table, rows)


def outcome(table: Table, content: bytes) -> tuple[str, object]:
    """'read' and the value, 'refused' and why, or what is wrong and the error."""
    table.path.write_bytes(content)
    try:
        return "read", table.read(table.path)
    except UserError as error:
        text = one_line(str(error))
        folders = map(str, table.path.parents[:2])
        named = any(folder in text for folder in folders) or NAMED.search(text)
        return "refused" if named else "refused without a name", text
    except Exception as error:
        return type(error).__name__, str(error)[:500]


@pytest.mark.parametrize(
    ("kind", "full"),
    [
        *(("labelled", 2000), ("pretraining", 900), ("lists", 500), ("traces", 500)),
        *(("readers", 500), ("predictions", 600)),
    ],
)
def test_a_mutated_table_means_the_same_or_is_refused_in_one_line(tables, capsys, kind, full):
    rng, counts, faults, slowest = random.Random(kind), Counter(), [], 0.0
    expected = [outcome(table, written(rng, table, table.rows)) for table in tables[kind]]
    assert [found for found in expected if found[0] != "read"] == []
    for number in range(count(full)):
        which = number // 2 % len(expected)
        table, same = tables[kind][which], number % 2 == 0
        content = (rewritten if same else mutated)(rng, table)
        begin = time.perf_counter()
        found = outcome(table, content)
        slowest = max(slowest, seconds := time.perf_counter() - begin)
        if (same and found != expected[which]) or found[0] not in ("read", "refused"):
            faults.append(f"{kind} {which}: {found}\n{content[:3000]!r}")
        if seconds > SECONDS:
            faults.append(f"{kind} {which}: {seconds:.1f} s\n{content[:3000]!r}")
        counts["rewritten" if same else "mutated", found[0]] += 1
    table.path.unlink()
    with capsys.disabled():
        print(f"\n{kind}: {dict(counts)}, slowest {slowest:.2f} s")
    assert not faults, "\n\n".join(faults[:20])
