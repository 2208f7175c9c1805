"""The report's sections: each a pure function from the run's facts to markup."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ufm_jax.report.charts import LineChart, line_chart, responsive, responsive_line_chart
from ufm_jax.report.client_curves import ClientCurves
from ufm_jax.report.gantt import gantt
from ufm_jax.report.markup import Markup, definitions, element, join
from ufm_jax.report.numbers import count, duration, fixed, parameters, percent, significant
from ufm_jax.report.run_info import RunInfo
from ufm_jax.report.tables import Column, table
from ufm_jax.runs.history import RoundRecord

_MOST_LINES = 40


def section(title: str, *children: str) -> Markup:
    """A section with its heading."""
    return element("section", element("h2", title), *children)


def triple(charts: Sequence[Markup]) -> Markup:
    """Charts beside each other, three a row."""
    return element("div", *[element("figure", chart) for chart in charts], class_="triple")


def summary(
    run: RunInfo, history: Sequence[RoundRecord], data: Sequence[Mapping[str, Any]]
) -> Markup:
    """The run in six figures, one paragraph, and the caller's notes."""
    images = sum(row["images"] for row in data)
    looks = looked(history)
    judged, loss = (
        ("held-out loss", looks[-1].held_out_loss) if looks else ("final loss", history[-1].loss)
    )
    speed = _median(record.images_per_second for record in history)
    useful = _median(record.useful_fraction for record in history)
    figures = [
        ("clients", f"{len(data):,}"),
        ("images", f"{images:,}"),
        ("rounds", f"{len(history):,}"),
        (judged, fixed(loss, 3)),
        ("images / s", fixed(speed, 0)),
        ("slots in use", percent(useful)),
    ]
    each = " each" if run.num_devices > 1 else ""
    text = (
        f"{count(len(data), 'client')} with {count(images, 'image')} trained "
        f"{parameters(run.num_parameters)} for {count(len(history), 'round')} on "
        f"{count(run.num_devices, 'device')} ({run.device}) with {count(run.lanes, 'lane')}{each}. "
        f"{_judged_sentence(run, looks)}{_loss_sentence(history[0].loss, history[-1].loss)} "
        "The median round took "
        f"{duration(_median(record.seconds for record in history))} at {fixed(speed, 0)} "
        f"images/s, with {percent(useful)} of the lanes’ step slots in use. Compiling took "
        f"{duration(run.compile_seconds)} ({count(run.compilations, 'compilation')}). "
        f"{_rejection_sentence(history)}{_skipped_sentence(history)}"
    )
    notes = [element("p", note, class_="note") for note in run.notes]
    tiles = definitions(figures, "figures", of_each="figure")
    return join(tiles, element("p", text, class_="lead"), *notes)


def looked(history: Sequence[RoundRecord]) -> list[RoundRecord]:
    """The rounds after which the shared model was judged on images that are held out."""
    return [record for record in history if np.isfinite(record.held_out_loss)]


def held_out(
    run: RunInfo, history: Sequence[RoundRecord], data: Sequence[Mapping[str, Any]]
) -> Markup:
    """The loss on images that nobody trains on, the training loss thin beside it; '' without."""
    looks = looked(history)
    if not looks:
        return Markup("")
    loss = np.array([record.held_out_loss for record in looks])
    # Where training begins, its loss would flatten the curve that the chart is about.
    trained = np.array([record.loss for record in looks])
    seconds = sum(record.judging_seconds for record in looks)
    share = seconds / sum(record.seconds for record in history)
    chart = LineChart(
        rounds=np.array([record.round for record in looks]),
        values=loss,
        labels=[
            f"round {record.round}: held out {fixed(record.held_out_loss, 4)}, training "
            f"{fixed(record.loss, 4)}"
            for record in looks
        ],
        y_label="held-out loss",
        description=f"Held-out loss by round, {fixed(loss[0], 3)} to {fixed(loss[-1], 3)}",
        lines=np.where(trained < 1.5 * loss.max(), trained, np.nan)[None],
    )
    held = sum(row.get("held_out", 0) for row in data)
    holders = sum(row.get("held_out", 0) > 0 for row in data)
    legend = (
        f"Thick line: {_judged(run)} after a round, on {count(held, 'image')} of "
        f"{count(holders, 'client')} that nobody trains on: whole pictures, always masked alike, "
        "so that only the model changes. Thin line: the clients’ training loss, on crops and "
        "degraded pictures, which includes what each client has just learned about its own images. "
        f"Judging took {percent(share, 1)} of the time of the rounds."
    )
    figure = element("figure", responsive_line_chart(chart, 340), element("figcaption", legend))
    return section("Images that are held out", figure, _probes(history))


def _probes(history: Sequence[RoundRecord]) -> Markup:
    """What frozen features told of labels, at the first probe and at the last; '' without."""
    probed = [record for record in history if record.probe]
    if not probed:
        return Markup("")

    def change(name: str, task: str) -> str:
        values = [fixed(record.probe[task][name], 2) for record in (probed[0], probed[-1])]
        return " → ".join(dict.fromkeys(values))

    names = {
        "linear_auroc": "AUROC, linear",
        "knn_auroc": "AUROC, neighbours",
        "linear_balanced_accuracy": "balanced accuracy, linear",
        "knn_balanced_accuracy": "balanced accuracy, neighbours",
    }
    columns = [Column("labels", lambda task: task, text=True)]
    columns += [Column(heading, partial(change, name)) for name, heading in names.items()]
    note = (
        "Probes: the encoder frozen, a logistic regression and the nearest neighbours on features "
        "of training images, asked for the labels of the images that are held out; after rounds "
        f"{probed[0].round} and {probed[-1].round}. So few images serve to watch a run by."
    )
    return join(table(columns, list(probed[-1].probe)), element("p", note, class_="note"))


def training(history: Sequence[RoundRecord], curves: ClientCurves) -> Markup:
    """The loss with its spread over clients, and three small charts of the rounds."""
    rounds = np.array([record.round for record in history])
    loss = np.array([record.loss for record in history])
    few = len(curves.names) <= _MOST_LINES
    rejected = frozenset(record.round for record in history if record.rejected)
    chart = LineChart(
        rounds=rounds,
        values=loss,
        labels=[loss_label(record) for record in history],
        y_label="training loss",
        description=f"Training loss by round, {fixed(loss[0], 3)} to {fixed(loss[-1], 3)}",
        lines=curves.loss if few else None,
        band=None if few else _middle_band(curves.loss),
        marked=rejected,
    )
    context = "Thin lines: single clients." if few else "Band: the middle 80 % of the clients."
    mark = " Triangles: rounds in which a client’s update was rejected." if rejected else ""
    legend = f"Thick line: the federation, clients weighted as in the average. {context}{mark}"
    return section(
        "Training",
        element(
            "figure",
            responsive_line_chart(chart, 340),
            element("figcaption", f"{legend} Rounds count from 0, as in metrics.jsonl."),
        ),
        triple(_small_charts(history, rounds)),
    )


def schedule(run: RunInfo, record: RoundRecord) -> Markup:
    """The lanes of one round."""
    lanes = run.lanes * run.num_devices
    text = (
        f"Round {record.round}: {count(len(record.clients), 'client')} in {count(lanes, 'lane')}; "
        f"{percent(record.useful_fraction, 1)} of the step slots train a client, the rest (pale) "
        "is idle."
    )
    return section(
        "Lanes of the last round",
        element("p", text),
        element("figure", responsive(lambda width: gantt(record, lanes, width))),
    )


def configuration(config: Mapping[str, Any], ran_with: Mapping[str, str]) -> Markup:
    """The resolved config, collapsed, and the device and software it ran with."""
    lines = "\n".join(f"{key} = {value!r}" for key, value in flatten(config))
    return join(
        section(
            "Configuration",
            element(
                "details",
                element("summary", f"Resolved config, {count(lines.count(chr(10)) + 1, 'value')}"),
                element("pre", lines),
            ),
        ),
        section("Software and device", definitions(ran_with.items(), "versions")),
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of nested dicts, in order."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def loss_label(record: RoundRecord) -> str:
    """A round's loss in words, with the clients that were rejected."""
    rejected = f", rejected: {', '.join(record.rejected)}" if record.rejected else ""
    return f"round {record.round}: {fixed(record.loss, 4)}{rejected}"


def names_in_short(names: Sequence[str]) -> str:
    """Distinct names in order, at most five of them."""
    distinct = sorted(set(names))
    more = f" and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return ", ".join(distinct[:5]) + more


def _small_charts(history: Sequence[RoundRecord], rounds: np.ndarray) -> list[Markup]:
    fields = (
        ("lr_factor", "learning-rate factor"),
        ("images_per_second", "throughput, images/s"),
        ("update_norm", "norm of the server’s update"),
    )
    charts = []
    for name, label in fields:
        values = np.array([getattr(record, name) for record in history], np.float64)
        chart = LineChart(
            rounds=rounds,
            values=values,
            labels=[
                f"round {at}: {significant(value)}"
                for at, value in zip(rounds, values, strict=True)
            ],
            y_label=label,
            description=f"{label} by round",
            from_zero=True,
        )
        charts.append(line_chart(chart, 340, 190))
    return charts


def _middle_band(loss: np.ndarray) -> np.ndarray:
    """10 % and 90 % quantile over clients, [2, R] from [K, R]; nan where no client is finite."""
    edges = np.full((2, loss.shape[1]), np.nan)
    for r, values in enumerate(loss.T):
        finite = values[np.isfinite(values)]
        if finite.size:
            edges[:, r] = np.quantile(finite, (0.1, 0.9))
    return edges


def _loss_sentence(first: float, last: float) -> str:
    """First and last loss and the relative change, or which of them was not finite."""
    bad = [name for name, loss in (("first", first), ("last", last)) if not np.isfinite(loss)]
    if bad:
        return f"The training loss was not finite in the {' and the '.join(bad)} round."
    change = f" ({'−' if last < first else '+'}{percent(abs(last / first - 1))})" if first else ""
    return f"The clients’ training loss went from {fixed(first, 3)} to {fixed(last, 3)}{change}."


def _judged(run: RunInfo) -> str:
    """Which model is judged, in words."""
    federation = run.config.get("federation", {})
    own = federation.get("training") == "local" or federation.get("personal")
    return "the model of each client" if own else "the shared model"


def _judged_sentence(run: RunInfo, looks: Sequence[RoundRecord]) -> str:
    if not looks:
        return ""
    first, last = looks[0].held_out_loss, looks[-1].held_out_loss
    lowest = min(looks, key=lambda record: record.held_out_loss)
    return (
        f"On images that are held out, the loss of {_judged(run)} went from {fixed(first, 3)} to "
        f"{fixed(last, 3)}, and was lowest after round {lowest.round} "
        f"({fixed(lowest.held_out_loss, 3)}). "
    )


def _rejection_sentence(history: Sequence[RoundRecord]) -> str:
    names = [name for record in history for name in record.rejected]
    if not names:
        return "No client’s update was rejected."
    were = "was" if len(names) == 1 else "were"
    return f"{count(len(names), 'update')} {were} rejected ({names_in_short(names)})."


def _skipped_sentence(history: Sequence[RoundRecord]) -> str:
    rounds = [record.round for record in history if record.skipped]
    if not rounds:
        return ""
    return (
        f" {count(len(rounds), 'round')} changed nothing, because too few updates came in for the "
        f"aggregation rule; the first was round {rounds[0]}."
    )


def _median(values: Any) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
