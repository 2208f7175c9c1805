"""The report is one valid, self-contained page that says what happened, whatever happened."""

import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ufm_jax.objectives.pictures import Pictures
from ufm_jax.report.page import render, write_page
from ufm_jax.report.reconstruction_png import write_reconstruction_png
from ufm_jax.report.run_info import RunInfo
from ufm_jax.runs.history import ClientRecord, RoundRecord

NASTY = '<script>alert("x")</script> & co'
RUN = RunInfo(
    name="pretrain_tiny", created="1 May 2026", config={"model": {"depth": 12, "name": NASTY}},
    versions={"jax": "0.10.2"}, device="CPU", num_parameters=5_717_416, num_devices=2, lanes=2,
    compile_seconds=41.3, compilations=1, notes=["A note."],
)  # fmt: skip
SECTIONS = (
    "Training", "Clients", "Lanes of the last round", "Communication", "Reconstructions",
    "Texture and masks", "Clients’ images", "Data issues", "Configuration", "Software and device",
)  # fmt: skip
NO_ISSUES = {"counts": {}, "excluded": {}, "issues": {}}


def names(clients: int) -> list[str]:
    return [NASTY if k == 1 else f"site-{k}" for k in range(clients)]


def history(rounds: int = 6, clients: int = 5, *, loss: float | None = None) -> list[RoundRecord]:
    return [_round(number, names(clients), loss) for number in range(rounds)]


def _round(number: int, clients: list[str], loss: float | None) -> RoundRecord:
    value = 1.0 / (number + 1) if loss is None else loss
    records = [
        ClientRecord(client, value + 0.01 * k, 32 * (k + 1), k + 1, 0.2, True, k % 4, 0, k + 1)
        for k, client in enumerate(clients)
    ]
    rejected = [NASTY] if number == 2 and NASTY in clients else []
    return RoundRecord(
        number, value, 0.5, 3.0, 480, 160.0, 0.625, 0.3, len(clients), rejected, records
    )


def on_a_clock(seconds: float, late: tuple[str, ...] = ()) -> list[RoundRecord]:
    return [
        dataclasses.replace(record, virtual_seconds=seconds, late=list(late) if at == 1 else [])
        for at, record in enumerate(history(4))
    ]


def data(clients: int = 5) -> list[dict]:
    return [
        {"client": name, "images": 100 * (k + 1), "groups": 9, "labels": {"a<b": 3}}
        for k, name in enumerate(names(clients))
    ]


def pictures(count: int = 3, *, colour: bool = False, clients: int = 5) -> Pictures:
    noise = np.random.Generator(np.random.Philox(7))
    shape = (count, 64, 64, 3) if colour else (count, 64, 64)
    views = [noise.integers(0, 256, shape, dtype=np.uint8) for _ in range(3)]
    thumbnails = {name: views[0][0] if count else np.zeros((8, 8), np.uint8)
                  for name in names(clients)}  # fmt: skip
    score = noise.uniform(0, 50, (count, 4, 4))
    mask = noise.integers(0, 2, (count, 4, 4))
    return Pictures(*views, score, mask, [NASTY] * count, thumbnails)


class Page(HTMLParser):
    """Checks that tags balance, and collects headings, addresses, ids and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "h2":
            self.headings.append(text)


def test_the_page_is_balanced_and_has_every_section(tmp_path):
    path = write_page(tmp_path, render(RUN, history(), data(), NO_ISSUES, pictures()))
    page = Page(path.read_text(encoding="utf-8"))
    assert tuple(page.headings) == SECTIONS
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_the_page_loads_nothing(tmp_path):
    text = write_page(tmp_path, render(RUN, history(), data(), NO_ISSUES, pictures())).read_text()
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'"data:[^"]*"', "", text))
    assert all(address.startswith("data:image/png;base64,") for address in Page(text).addresses)


def test_names_paths_and_config_are_escaped():
    found = [{"client": NASTY, "path": NASTY, "reason": NASTY}]
    issues = {"counts": {"corrupt": 1}, "excluded": {NASTY: 2}, "issues": {"corrupt": found}}
    run = dataclasses.replace(
        RUN, name=NASTY, device=NASTY, created=NASTY, notes=[NASTY], versions={NASTY: NASTY}
    )
    text = render(run, history(), data(), issues, pictures())
    assert NASTY not in text
    assert "alert(" in text
    assert "a<b" not in text
    assert Page(text).scripts == 1


def test_a_name_of_other_bytes_than_utf_8_does_not_cost_the_page(tmp_path):
    page = write_page(tmp_path, "<p>k\udcf6rper.png</p>")
    assert page.read_text("utf-8") == "<p>k?rper.png</p>"


def test_the_summary_has_the_run_in_numbers():
    text = render(RUN, history(), data(), NO_ISSUES, None).replace("\N{NO-BREAK SPACE}", " ")
    for phrase in (
        "5 clients with 1,500 images",
        "5.72 million parameters for 6 rounds on 2 devices (CPU) with 2 lanes each",
        "from 1.000 to 0.167 (−83 %)",
        "160 images/s, with 62 % of the lanes’ step slots",
        "Compiling took 41 s (1 compilation)",
        "1 update was rejected",
        "A note.",
    ):
        assert phrase in text


def judged(every: int = 1) -> list[RoundRecord]:
    """Looks whose loss falls, and rises at the end."""
    losses = [0.9, 0.6, 0.5, 0.45, 0.4, 0.42]
    return [
        dataclasses.replace(
            record,
            held_out_loss=loss,
            held_out={"site-0": loss, NASTY: 2 * loss},
            judging_seconds=0.03 * every,
        )
        if record.round % every == every - 1
        else record
        for record, loss in zip(history(), losses, strict=True)
    ]


@pytest.mark.parametrize("every", [1, 3])
def test_the_shared_models_loss_is_the_first_curve_and_says_what_it_is(every):
    rows = [dict(row, held_out=4 if k < 2 else 0) for k, row in enumerate(data())]
    text = render(RUN, judged(every), rows, NO_ISSUES, None).replace("\N{NO-BREAK SPACE}", " ")
    assert Page(text).headings[:2] == ["Images that are held out", "Training"]
    first = 0.9 if every == 1 else 0.5
    for phrase in (
        f"the loss of the shared model went from {first:.3f} to 0.420, and was lowest after round",
        "The clients’ training loss went from 1.000 to 0.167",
        "on 8 images of 2 clients that nobody trains on",
        "includes what each client has just learned about its own images",
        "Judging took 1.0 % of the time of the rounds.",
        ">held-out loss<",
        '<td class="number">0.840</td>',
    ):
        assert phrase in text, phrase


@pytest.mark.parametrize("federation", [{"training": "local"}, {"personal": (".*norm.*",)}])
def test_models_of_the_clients_own_are_not_called_shared(federation):
    run = dataclasses.replace(RUN, config={"federation": federation})
    text = render(run, judged(), data(), NO_ISSUES, None)
    assert "the loss of the model of each client went" in text
    assert "shared model" not in text


def test_probes_are_shown_from_the_first_to_the_last():
    figures = [f"{a}_{b}" for a in ("linear", "knn") for b in ("auroc", "balanced_accuracy")]
    records = [
        dataclasses.replace(
            record, probe={NASTY: dict.fromkeys(figures, 0.5 + 0.05 * record.round)}
        )
        if record.round in (1, 5)
        else record
        for record in judged()
    ]
    text = render(RUN, records, data(), NO_ISSUES, None)
    assert text.count('<td class="number">0.55 → 0.75</td>') == 4
    assert "after rounds 1 and 5" in text
    assert NASTY not in text


def test_a_run_that_nothing_judged_does_not_speak_of_it():
    text = render(RUN, history(), data(), NO_ISSUES, None)
    assert "Images that are held out" not in Page(text).headings
    assert "held" not in re.sub(r"<style>.*</style>", "", text, flags=re.S)


def test_issues_are_counted_by_kind_and_long_lists_say_that_they_are_cut():
    found = [{"client": "a", "path": f"{i}.png", "reason": "empty"} for i in range(100)]
    text = render(RUN, history(), data(), {"issues": {"corrupt": found}}, None)
    assert "Files that do not decode: <b>100</b>" in text
    assert "39.png" in text
    assert "40.png" not in text
    assert "The other 60 are of the same kind" in text


def test_a_run_without_issues_says_none():
    assert "<h2>Data issues</h2><p>None.</p>" in render(RUN, history(), data(), NO_ISSUES, None)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, 0.0, 3e38, 1e-38])
@pytest.mark.parametrize(("rounds", "clients"), [(1, 1), (1, 5), (6, 1), (400, 60)])
def test_no_run_breaks_the_page(rounds, clients, loss):
    text = render(RUN, history(rounds, clients, loss=loss), data(clients), NO_ISSUES, None)
    Page(text)
    assert "nan" not in re.sub(r"<style>.*</style>", "", text, flags=re.S).replace("finance", "")


def test_a_client_that_never_trained_has_a_row():
    rows = [*data(2), {"client": "never", "images": 0, "groups": None, "labels": None}]
    text = render(RUN, history(3, 2), rows, NO_ISSUES, None)
    assert "never" in text


def test_labels_are_counted_and_columns_that_say_nothing_are_left_out():
    many = {f"label-{i}": i for i in range(7)}
    rows = [{"client": name, "images": 9, "groups": 9, "labels": many} for name in names(2)]
    text = render(RUN, history(1, 2), rows, NO_ISSUES, None)
    assert "<td>label-6 6, label-5 5, label-4 4, label-3 3, 2 more</td>" in text
    assert ">groups<" not in text
    rows = [dict(row, groups=3, labels={"a": 0}) for row in rows]
    text = render(RUN, history(1, 2), rows, NO_ISSUES, None)
    assert ">labels<" not in text
    assert ">groups<" in text


def test_a_loss_that_is_not_finite_is_said():
    text = render(RUN, history(3, loss=math.nan), data(), NO_ISSUES, None)
    assert "loss was not finite in the first and the last round" in text


def test_colour_pictures_and_no_examples_are_fine():
    Page(render(RUN, history(), data(), NO_ISSUES, pictures(2, colour=True)))
    Page(render(RUN, history(), data(), NO_ISSUES, pictures(0)))


def test_a_large_run_stays_a_small_page():
    noise = np.random.Generator(np.random.Philox(3)).integers(0, 256, (8, 224, 224), np.uint8)
    grid = np.ones((8, 14, 14))
    thumbnails = dict.fromkeys(names(100), noise[0])
    large = Pictures(noise, noise, noise, grid, grid, names(8), thumbnails)
    text = render(RUN, history(300, 100), data(100), NO_ISSUES, large)
    assert "The first 64 of 100 clients are shown." in text
    # Noise does not compress: real images make a third of this.
    assert len(text) < 6_000_000


def test_an_empty_history_and_foreign_data_are_refused():
    with pytest.raises(ValueError, match="'pretrain_tiny' is empty"):
        render(RUN, [], data(), NO_ISSUES, None)
    with pytest.raises(ValueError, match="has the client 'site-4'"):
        render(RUN, history(), data(4), NO_ISSUES, None)


def test_pictures_name_the_field_that_does_not_fit():
    good = pictures()
    with pytest.raises(ValueError, match=r"Pictures\.masked is float64"):
        dataclasses.replace(good, masked=good.masked.astype(np.float64))
    with pytest.raises(ValueError, match=r"Pictures\.reconstruction has shape"):
        dataclasses.replace(good, reconstruction=good.reconstruction[:, :32])
    with pytest.raises(ValueError, match=r"Pictures\.texture_score has shape"):
        dataclasses.replace(good, texture_score=good.texture_score[:, :2])
    with pytest.raises(ValueError, match=r"Pictures\.thumbnails\['x'\]"):
        dataclasses.replace(good, thumbnails={"x": np.zeros((2, 4, 4, 3), np.uint8)})


def test_the_picture_of_reconstructions_shows_three_columns(tmp_path):
    path = write_reconstruction_png(tmp_path, pictures(6), rows=3)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 3 * 224 < image.width < 4 * 224
        assert 3 * 224 < image.height < 4 * 224
    with pytest.raises(ValueError, match="no example pictures"):
        write_reconstruction_png(tmp_path, pictures(0))


def test_virtual_clock_shows_simulated_time_and_who_was_late():
    text = render(RUN, on_a_clock(600.0, (NASTY, "site-2")), data(), NO_ISSUES, None)
    assert "Virtual clock" in Page(text).headings
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "took 40 min 0 s, on average 10 min 0 s a round" in text
    assert "2 updates never came" in text
    assert "site-2)" in text
    assert "simulated minutes" in text


def test_virtual_clock_is_left_out_where_there_is_none():
    page = Page(render(RUN, history(), data(), NO_ISSUES, None))
    assert "Virtual clock" not in page.headings


@pytest.mark.parametrize(("seconds", "unit"), [(0.5, "seconds"), (90.0, "minutes"), (9e3, "hours")])
def test_simulated_time_has_the_unit_that_suits(seconds, unit):
    text = render(RUN, on_a_clock(seconds), data(), NO_ISSUES, None)
    assert f"simulated {unit}" in text
    assert "No client dropped out or came too late." in text


def test_rounds_that_changed_nothing_are_said():
    rounds = [dataclasses.replace(record, skipped=record.round > 3) for record in history()]
    text = render(RUN, rounds, data(), NO_ISSUES, None).replace("\N{NO-BREAK SPACE}", " ")
    assert "2 rounds changed nothing" in text
    assert "the first was round 4" in text
    assert "changed nothing" not in render(RUN, history(), data(), NO_ISSUES, None)
