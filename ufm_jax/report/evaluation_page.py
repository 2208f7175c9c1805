"""The report of an evaluation, one page that needs nothing but itself."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ufm_jax.evaluation.results import DiagnosisResult, Estimate, SegmentationResult
from ufm_jax.report import evaluation_charts as charts
from ufm_jax.report.evaluation_pictures import examples
from ufm_jax.report.evaluation_types import EvaluationReport, Training
from ufm_jax.report.markup import Child, Markup, definitions, element, join
from ufm_jax.report.numbers import UNKNOWN, count, fixed
from ufm_jax.report.page import document
from ufm_jax.report.sections import configuration, section, triple
from ufm_jax.report.tables import Column, issue_list, table

Result = DiagnosisResult | SegmentationResult

_TITLES = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
    "npv": "NPV",
    "f1": "F1",
    "brier": "Brier score",
    "dice": "Dice",
    "pooled_dice": "Dice of all pixels",
    "dice_shown": "Dice, images that show it",
    "iou": "IoU",
    "hd95_px": "HD95, pixels",
    "hd95_mm": "HD95, mm",
    "assd_px": "ASSD, pixels",
    "assd_mm": "ASSD, mm",
    "hd95_px_both": "HD95, both show it, pixels",
    "hd95_mm_both": "HD95, both show it, mm",
    "assd_px_both": "ASSD, both show it, pixels",
    "assd_mm_both": "ASSD, both show it, mm",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "limits_low": "lower limit of agreement",
    "limits_high": "upper limit of agreement",
    "mae_percent": "mean absolute error, %",
    "auroc_delong": "AUROC, DeLong",
}
HEADLINES = (
    *("auroc", "balanced_accuracy", "sensitivity", "specificity"),
    *("dice", "dice_shown", "hd95_px", "hd95_mm"),
)


def render(report: EvaluationReport) -> str:
    """The page's HTML."""
    evaluation = report.evaluation
    split = main_split(evaluation.splits)
    parts = [
        _headline(report, split),
        section("Figures", *_figures(report)),
        _classes(evaluation.splits[split], split),
        _plots(report, split),
        _measurement(report, split),
        _comparison(report),
        _readers(report),
        examples(report.pictures),
        _training(report.training),
        section("Data issues", issue_list(report.issues)),
        configuration(report.config, report.versions),
    ]
    return document(evaluation.name, f"Evaluation report, {report.created}", *parts)


def main_split(splits: Collection[str]) -> str:
    """The split that the page is about: the test images or, without them, the first."""
    return next((name for name in ("test", "all") if name in splits), next(iter(splits)))


def _headline(report: EvaluationReport, split: str) -> Markup:
    """A few figures in large type, what they rest on, and the facts."""
    evaluation = report.evaluation
    result = evaluation.splits[split]
    shown = {name: result.overall[name] for name in HEADLINES if name in result.overall}
    errors = evaluation.measurement.get(split)
    if errors is not None and errors.result is not None:
        shown = {f"mean error, {errors.result.unit}": errors.result.metrics["mae"]} | shown
    tiles = [
        (title_of(name), join(value_of(figure), element("small", interval_of(figure))))
        for name, figure in list(shown.items())[:6]
        if not math.isnan(figure.value) or name in ("auroc", "dice")
    ]
    where = "in all" if split == "all" else f"in the {split} split"
    text = (
        f"{count(result.num_rows, 'image')} of {count(result.num_groups, 'group')} (patients) "
        f"{where}. {result.interval}."
    )
    note = [element("p", evaluation.note, class_="note")] if evaluation.note else []
    return join(
        definitions(tiles, "figures", of_each="figure"),
        element("p", text, class_="lead"),
        *note,
        definitions(report.facts, "versions"),
    )


def _figures(report: EvaluationReport) -> list[Markup]:
    """Every figure, a column a split; below it why some are undefined."""
    splits = report.evaluation.splits
    names = list(next(iter(splits.values())).overall)
    columns = [
        Column("figure", title_of, text=True),
        *[_of_split(split, result) for split, result in splits.items()],
    ]
    return [table(columns, names), *_notes(splits)]


def _notes(splits: Mapping[str, Result]) -> list[Markup]:
    """The notes of figures, each note once, and the classes that means leave out."""
    found: dict[str, list[str]] = {}
    for split, result in splits.items():
        for name, figure in result.overall.items():
            if figure.note:
                found.setdefault(f"{split}: {figure.note}", []).append(title_of(name))
        for name, why in (result.left_out if isinstance(result, DiagnosisResult) else {}).items():
            found.setdefault(f"{split}: the means leave out {name}: {why}", [])
    return [
        element("p", f"{note} ({', '.join(names)})" if names else note, class_="note")
        for note, names in found.items()
    ]


def _classes(result: Result, split: str) -> Markup:
    """A row a class."""
    columns = [Column("class", str, text=True)]
    if isinstance(result, DiagnosisResult):
        decision, support = result.decision, result.support
        columns.append(Column("images", lambda name: f"{support.get(name, 0):,}"))
        columns.append(Column("called from", lambda name: decision.get(name, "argmax"), text=True))
    else:
        columns += [_counts(result, key) for key in next(iter(result.counts.values()))]
    figures = next(iter(result.per_class.values()))
    columns += [_of_class(result, figure) for figure in figures]
    return section(f"Classes, {split}", table(columns, list(result.per_class)))


def _counts(result: SegmentationResult, key: str) -> Column:
    return Column(key.replace("_", " "), lambda name: f"{result.counts[name][key]:,}")


def _of_class(result: Result, figure: str) -> Column:
    return Column(title_of(figure), lambda name: _cell(result.per_class[name][figure]))


def _of_split(split: str, result: Result) -> Column:
    return Column(split, lambda name: _cell(result.overall[name]))


def _plots(report: EvaluationReport, split: str) -> Markup:
    result = report.evaluation.splits[split]
    if not isinstance(result, DiagnosisResult):
        return Markup("")
    rows = []
    for name, curves in result.curves.items():
        drawn = []
        if curves.roc is not None and curves.precision_recall is not None:
            drawn.append(
                charts.roc_chart(name, curves.roc, report.evaluation.readers.get(name, ()))
            )
            drawn.append(charts.precision_recall_chart(name, curves.precision_recall))
        drawn.append(charts.calibration_chart(name, curves.calibration))
        rows.append(join(element("h3", name), triple(drawn)))
    text = (
        "ROC (the thin line is chance), precision and recall, calibration; each class against the "
        "rest."
    )
    return join(section(f"Curves, {split}", element("p", text), *rows), _confusion(result, split))


def _confusion(result: DiagnosisResult, split: str) -> Markup:
    """Counts of truth by call."""
    if result.kind == "multilabel":
        parts = [
            join(element("h3", name), _matrix((f"no {name}", name), matrix))
            for name, matrix in zip(result.classes, result.confusion, strict=True)
        ]
        return section(f"Confusion, {split}", *parts)
    names = result.classes
    if result.kind == "binary":  # Counts begin with the other class.
        names = tuple(sorted(names, key=lambda name: name == result.positive))
    return section(f"Confusion, {split}", _matrix(names, result.confusion))


def _matrix(names: Sequence[str], counts: np.ndarray) -> Markup:
    called = [_called(counts, c, name) for c, name in enumerate(names)]
    columns = [Column("is \\ called", lambda row: names[row], text=True), *called]
    return element("div", table(columns, range(len(names))), class_="confusion")


def _called(counts: np.ndarray, c: int, name: str) -> Column:
    """How many rows of each class are called ``name``, darker the larger their share."""
    shade = 60 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    style = "background: color-mix(in srgb, var(--accent) {:.0f}%, transparent)"
    return Column(
        name, lambda row: f"{int(counts[row, c]):,}", style=lambda row: style.format(shade[row, c])
    )


def _measurement(report: EvaluationReport, split: str) -> Markup:
    errors = report.evaluation.measurement.get(split)
    if errors is None:
        return Markup("")
    if errors.result is None:
        return section("Measurement", element("p", errors.note))
    result = errors.result
    columns = [
        Column("figure", title_of, text=True),
        Column(result.unit, lambda name: _cell(result.metrics[name], 2)),
    ]
    text = (
        f"{count(result.num_rows, 'image')} with a true value; in {result.missed} of them nothing "
        f"could be measured. {errors.without_reference} images have no true value."
    )
    parts = [element("p", text), table(columns, list(result.metrics))]
    if split in report.measured:
        measured, reference = report.measured[split]
        lines = [
            (name, result.metrics[key].value)
            for name, key in (("bias", "bias"), ("95 %", "limits_low"), ("95 %", "limits_high"))
        ]
        plots = (
            charts.agreement_chart(measured, reference, result.unit),
            charts.difference_chart(measured, reference, lines, result.unit),
        )
        parts.append(triple(plots))
    return section(f"Measurement, {split}", *parts)


def _comparison(report: EvaluationReport) -> Markup:
    comparison = report.evaluation.comparison
    if comparison is None:
        return Markup("")
    figures = comparison.figures
    columns = [
        Column("figure", title_of, text=True),
        Column("this run", lambda name: _cell(figures[name].first)),
        Column("other run", lambda name: _cell(figures[name].second)),
        Column("difference", lambda name: _cell(figures[name].difference)),
        Column("p", lambda name: fixed(figures[name].p_value, 3)),
    ]
    left_out = [
        element("p", f"{title_of(name)}: {why}", class_="note")
        for name, why in comparison.left_out.items()
    ]
    text = (
        f"Paired by image: {count(comparison.num_rows, 'image')}, {comparison.num_groups} groups."
    )
    return section(
        "Against another run", element("p", text), table(columns, list(figures)), *left_out
    )


def _readers(report: EvaluationReport) -> Markup:
    rows = [(name, one) for name, found in report.evaluation.readers.items() for one in found]
    if not rows:
        return Markup("")
    columns = [
        Column("class", lambda row: row[0], text=True),
        Column("reader", lambda row: row[1].reader, text=True),
        Column("images", lambda row: f"{row[1].num_rows:,}"),
        Column("sensitivity", lambda row: _cell(row[1].sensitivity)),
        Column("model’s", lambda row: _cell(row[1].model_sensitivity)),
        Column("specificity", lambda row: _cell(row[1].specificity)),
        Column("model’s", lambda row: _cell(row[1].model_specificity)),
    ]
    return section("Readers", table(columns, rows))


def _training(training: Training | None) -> Markup:
    if training is None:
        return Markup("")
    plots = [charts.loss_chart(training.losses)]
    if training.looks:
        name = title_of(training.score_name)
        plots.append(charts.score_chart(training.looks, training.scores, name, training.chosen))
    text = f"The model after {count(training.chosen, 'round')} of {len(training.losses)} was taken."
    if training.looks and not np.isfinite(training.scores).any():
        text += f" {name} on the validation split is undefined after every round."
    return section("Training", element("p", text), triple(plots))


def title_of(name: str) -> str:
    """What a figure is called."""
    return _TITLES.get(name, name.replace("_", " "))


def value_of(figure: Estimate, decimals: int = 3) -> str:
    """A figure's value with as many decimals as its size needs."""
    return fixed(figure.value, decimals if abs(figure.value) < 10 else 1)


def interval_of(figure: Estimate) -> str:
    """A figure's interval in words, or why the figure is undefined."""
    if math.isnan(figure.value):
        return figure.note
    if math.isnan(figure.low):
        return ""
    decimals = 3 if abs(figure.value) < 10 else 1
    return f"{fixed(figure.low, decimals)} to {fixed(figure.high, decimals)}"


def _cell(figure: Estimate, decimals: int = 3) -> Child:
    """The value of a figure with its interval, or why it is undefined."""
    if math.isnan(figure.value):
        return element("span", UNKNOWN, title=figure.note)
    interval = interval_of(figure)
    small: tuple[Any, ...] = (" ", element("small", interval)) if interval else ()
    return join(value_of(figure, decimals), *small)
