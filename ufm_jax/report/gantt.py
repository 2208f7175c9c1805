"""The lanes of a round: which client trained where, and when a lane was idle."""

from collections.abc import Sequence

from ufm_jax.report import svg
from ufm_jax.report.axes import Scale, ticks, x_labels
from ufm_jax.report.markup import Markup, decimal, element
from ufm_jax.report.numbers import count
from ufm_jax.runs.history import ClientRecord, RoundRecord

_LETTER_WIDTH = 6.4  # of the bars' 11 px type, on average
_PITCH, _SMALL_PITCH = 26, 14


def gantt(record: RoundRecord, num_lanes: int, width: int) -> Markup:
    """Draws a lane a row and a client a bar over the steps of ``record``'s round.

    Args:
        record: The round; its clients' lane, begin and end are drawn.
        num_lanes: Lanes over all devices; idle ones are drawn too.
        width: Pixels; the height follows from the number of lanes.
    """
    rows = max([num_lanes, *(client.lane + 1 for client in record.clients)])
    pitch = _PITCH if rows <= 24 else _SMALL_PITCH
    last = max((client.end for client in record.clients), default=1)
    x = Scale(0, max(last, 1), 58, width - 12)
    bottom = 6 + rows * pitch
    parts = []
    for lane in range(rows):
        top = 6 + lane * pitch
        here = [client for client in record.clients if client.lane == lane]
        parts.append(svg.rect(x.start, top + 1, x.stop - x.start, pitch - 2, "idle"))
        if pitch == _PITCH or lane % 4 == 0:
            label_y = top + pitch / 2 + 4
            parts.append(svg.text(f"lane {lane}", x.start - 8, label_y, "tick end"))
        parts += lane_bars(here, frozenset(record.rejected), x, top + 1, pitch - 2)
    return svg.chart(
        *parts,
        *_step_axis(x, bottom, width),
        width=width,
        height=bottom + 36,
        description=f"Lanes of round {record.round}: {count(rows, 'lane')}, "
        f"{count(len(record.clients), 'client')}, {count(last, 'step')}",
    )


def lane_bars(
    clients: Sequence[ClientRecord], rejected: frozenset[str], x: Scale, top: float, height: float
) -> list[Markup]:
    """Bars of one lane's clients, in two shades by turns so that neighbours part."""
    bars = []
    for turn, client in enumerate(sorted(clients, key=lambda client: client.begin)):
        left, right = x(client.begin), x(client.end)
        shade = "bad" if client.client in rejected else f"shade{turn % 2}"
        what = f"steps {client.begin:,} to {client.end:,}, {count(client.examples, 'image')}"
        parts = [
            element("title", f"{client.client}: {what}"),
            svg.rect(left, top, max(right - left - 1, 0.5), height, shade),
        ]
        label = fitted(client.client, right - left - 10) if height > _SMALL_PITCH else ""
        if label:
            parts.append(svg.text(label, left + 6, top + height / 2 + 4, f"bar {shade}"))
        bars.append(element("g", *parts, class_="tip"))
    return bars


def fitted(name: str, width: float) -> str:
    """``name``, cut with an ellipsis to ``width`` pixels; empty where no three letters fit."""
    letters = int(width / _LETTER_WIDTH)
    if len(name) <= letters:
        return name
    return name[: letters - 1].rstrip(" -_.") + "…" if letters >= 4 else ""


def _step_axis(x: Scale, bottom: float, width: int) -> list[Markup]:
    values = ticks(x.low, x.high, max(5, width // 120), whole=True)
    rules = "".join(f"M{decimal(x(value))},{decimal(bottom)}v4" for value in values)
    return [
        *x_labels(x, bottom, values),
        element("path", d=rules, class_="axis"),
        svg.text("local step in the lane", x.stop, bottom + 32, "label end"),
    ]
