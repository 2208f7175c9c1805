"""Sections that show the loss against what it cost: bytes sent, and time on the virtual clock."""

from collections.abc import Sequence

import numpy as np

from ufm_jax.report.charts import LineChart, responsive_line_chart
from ufm_jax.report.markup import Markup, element
from ufm_jax.report.numbers import count, duration, size, unit_of_size
from ufm_jax.report.sections import loss_label, names_in_short, section
from ufm_jax.runs.history import RoundRecord

_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def communication(history: Sequence[RoundRecord]) -> Markup:
    """The loss against what was sent, both ways, as the run would have sent it."""
    moved = np.cumsum([record.bytes_down + record.bytes_up for record in history])
    last = history[-1]
    text = (
        f"The last round moved {size(last.bytes_down)} to its clients and {size(last.bytes_up)} "
        f"from them; the whole run {size(moved[-1])}. Counted from the shapes of what an "
        "institution would receive and send, compressed where the run compresses; without the "
        "overhead of a network."
    )
    divisor, unit = unit_of_size(moved[-1])
    shown = [size(sent) for sent in moved]
    chart = _loss_against(history, moved / divisor, shown, f"{unit} sent, in all")
    return section("Communication", element("p", text), chart)


def virtual_clock(history: Sequence[RoundRecord]) -> Markup:
    """The loss against simulated time, and who did not answer in time; empty without a clock."""
    seconds = np.cumsum([record.virtual_seconds for record in history])
    if not np.isfinite(seconds).all():
        return Markup("")
    text = (
        f"Clients have speeds of their own here. By the virtual clock the run took "
        f"{duration(seconds[-1])}, on average {duration(seconds[-1] / len(history))} a round; the "
        f"programs that simulate it took {duration(sum(record.seconds for record in history))}. "
        f"{_late_sentence(history)}"
    )
    shown = [duration(at) for at in seconds]
    divisor, unit = next(unit for unit in _UNITS if seconds[-1] >= 5 * unit[0] or unit[0] == 1)
    chart = _loss_against(history, seconds / divisor, shown, f"simulated {unit}")
    return section("Virtual clock", element("p", text), chart)


def _loss_against(
    history: Sequence[RoundRecord], cost: np.ndarray, shown: Sequence[str], x_label: str
) -> Markup:
    """The training loss over an increasing cost; ``shown`` is the cost as text, by round."""
    chart = LineChart(
        rounds=cost,
        values=np.array([record.loss for record in history]),
        labels=[
            f"{text}: {loss_label(record)}" for text, record in zip(shown, history, strict=True)
        ],
        y_label="training loss",
        description=f"Training loss by {x_label}",
        x_label=x_label,
    )
    return element("figure", responsive_line_chart(chart, 240))


def _late_sentence(history: Sequence[RoundRecord]) -> str:
    late = [name for record in history for name in record.late]
    if not late:
        return "No client dropped out or came too late."
    return (
        f"{count(len(late), 'update')} never came, because the client dropped out or was too late "
        f"({names_in_short(late)})."
    )
