"""Probes of the encoder while it pretrains: what its features tell of the labels that there are.

The encoder is frozen, and never learns a label. Features of labelled training images are a bank: a
logistic regression is fitted to them, and the nearest of them vote; both are asked for the labels
of images that are held out. A bank is small, so that probing costs little: its figures are for
watching a run, those of ``finetune --config.method=linear_probe`` for telling.
"""

from dataclasses import dataclass

import numpy as np

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.evaluation.cases import multiclass_cases
from ufm_jax.evaluation.diagnosis import diagnose
from ufm_jax.evaluation.probes.neighbours import vote
from ufm_jax.evaluation.probes.regression import fit_heads
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.placement import Placement
from ufm_jax.objectives.features import make_features
from ufm_jax.train.image_function import ImageFunction

_BANK = 512
"""The most images of a bank."""

_STRENGTH = 0.01
"""Inverse strength of regularisation, C, on standardised features."""

_NEIGHBOURS = 20


@dataclass(frozen=True)
class ProbeTask:
    """A set of labels that exclude each other, and the images that show them.

    Attributes:
        classes: C names.
        bank: Rows of the training images, int64 [n].
        asked: Rows of the images that are held out, int64 [m].
        targets: float [n, C] of the bank, 1 = has the label.
        labels: int64 [m] of what is asked, the numbers of their classes.
    """

    classes: tuple[str, ...]
    bank: np.ndarray
    asked: np.ndarray
    targets: np.ndarray
    labels: np.ndarray

    @property
    def name(self) -> str:
        """The classes in one line."""
        return ", ".join(self.classes)


def probe_tasks(data: FederatedData) -> list[ProbeTask]:
    """The tasks of which two classes or more are in the bank and among what is held out."""
    held, found = data.held_out, list[ProbeTask]()
    if held is None:
        return found
    for task in data.tasks:
        bank = np.flatnonzero(np.isin(data.labels, task))
        # By their pixels: an even draw, that other files change as little as they can.
        bank = np.sort(bank[np.argsort(data.contents[bank], kind="stable")[:_BANK]])
        asked = np.flatnonzero(np.isin(held.labels, task))
        known, wanted = data.labels[bank], held.labels[asked]
        if len(np.unique(known)) < 2 or len(np.unique(wanted)) < 2:
            continue
        classes = tuple(data.label_names[label] for label in task)
        targets = (known[:, None] == np.array(task)).astype(np.float64)
        # A task's labels ascend.
        found.append(ProbeTask(classes, bank, asked, targets, np.searchsorted(task, wanted)))
    return found


class FeatureProbe:
    """Probes encoders on the tasks of a federation."""

    def __init__(
        self,
        config: PretrainConfig,
        data: FederatedData,
        placement: Placement,
        tasks: list[ProbeTask],
    ) -> None:
        """Compiles nothing yet; ``tasks`` are those of ``data``, at least one."""
        assert data.held_out is not None
        self._tasks = tasks
        self._bank = np.unique(np.concatenate([task.bank for task in tasks]))
        self._asked = np.unique(np.concatenate([task.asked for task in tasks]))
        parts = data.take(self._bank), data.held_out.take(self._asked)
        function = make_features(config.model)
        resident = config.placement.data_home == "device"
        size = config.evaluation.batch_size
        self._features = [
            ImageFunction(function, part, placement, size, resident) for part in parts
        ]

    def __call__(self, params: Params) -> dict[str, dict[str, float]]:
        """Task -> figure -> value; nan where the images held out do not define it."""
        bank, asked = (features(params) for features in self._features)
        return {
            task.name: _figures(
                task,
                bank[np.searchsorted(self._bank, task.bank)],
                asked[np.searchsorted(self._asked, task.asked)],
            )
            for task in self._tasks
        }


def _figures(task: ProbeTask, bank: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    (head,) = fit_heads(bank, task.targets, "single", (_STRENGTH,), balance=1.0)
    (voted,) = vote(bank, task.targets, asked, (_NEIGHBOURS,))
    found = {"linear": head.probabilities(asked, "single"), "knn": voted}
    return {
        f"{name}_{figure}": value
        for name, probabilities in found.items()
        for figure, value in _judged(task, probabilities).items()
    }


def _judged(task: ProbeTask, probabilities: np.ndarray) -> dict[str, float]:
    cases = multiclass_cases(probabilities, task.labels, task.classes)
    overall = diagnose(cases, task.asked, None).overall
    return {figure: overall[figure].value for figure in ("auroc", "balanced_accuracy")}
