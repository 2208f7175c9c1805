"""What a model is chosen and judged by is checked before it is trained; none is kept untrained."""

from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.config.finetuning import EvaluationConfig, FinetuneConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.evaluation_json import CompareWith
from ufm_jax.finetuning import run as pipeline
from ufm_jax.finetuning import training
from ufm_jax.finetuning.best_round import check_validation
from ufm_jax.finetuning.personal import OwnParameters
from ufm_jax.finetuning.run import Request, check_evaluation, evaluate
from ufm_jax.runs.trained_model import TrainedModel, head_moved
from ufm_jax.train.judge import Judge

CLASSES = ("benign", "malignant", "normal")


def labelled(labels, kind="single", num_classes=2):
    """What a check reads of labelled images that are all for validation."""
    labels = np.array(labels, np.int32)
    targets = np.zeros((len(labels), num_classes), np.float32)
    if kind == "single":
        targets[np.arange(len(labels)), labels] = 1
    return SimpleNamespace(
        task=Task(kind, CLASSES[:num_classes]),
        rows=lambda split: np.arange(len(labels)),
        names=tuple(f"{row}.png" for row in range(len(labels))),
        clients=("a",),
        offsets=np.array([0, len(labels)]),
        labels=labels,
        targets=targets,
        groups=np.arange(len(labels)),
    )


@pytest.mark.parametrize(
    ("data", "select", "figure"),
    [
        (labelled([1, 1, 1]), "auto", "auroc"),
        (labelled([0, 0]), "auroc", "auroc"),
        (labelled([2, 2], num_classes=3), "auroc", "auroc"),
        (labelled([0, 0], kind="multi"), "auroc", "auroc"),
    ],
)
def test_a_score_that_no_round_can_have_is_said_before_the_training(data, select, figure, caplog):
    check_validation(data, EvaluationConfig(select=select))
    assert f"{figure} is undefined on the validation split (" in caplog.text
    assert "the last round will be taken" in caplog.text


@pytest.mark.parametrize("data", [labelled([0, 1, 1]), labelled([0, 1, 2], num_classes=3)])
@pytest.mark.parametrize("select", ["auto", "balanced_accuracy", "last"])
def test_a_score_that_is_defined_is_not_spoken_of(data, select, caplog):
    check_validation(data, EvaluationConfig(select=select))
    assert not caplog.text


def test_without_images_to_choose_by_nothing_is_trained():
    with pytest.raises(ConfigError, match="the data has no validation split to choose by"):
        check_validation(labelled([]), EvaluationConfig())
    check_validation(labelled([]), EvaluationConfig(select="last"))


@pytest.mark.parametrize(
    ("data", "positive", "message"),
    [
        (labelled([0, 1]), "cancer", "the classes are benign, malignant"),
        (labelled([0, 1, 2], num_classes=3), "normal", "it tells two classes apart"),
        (labelled([0, 0], kind="multi"), "benign", "it tells two classes apart"),
    ],
)
def test_a_positive_class_that_changes_nothing_is_refused(data, positive, message):
    with pytest.raises(ConfigError, match=rf"evaluation\.positive='{positive}': {message}"):
        check_evaluation(EvaluationConfig(positive=positive), data)
    check_evaluation(EvaluationConfig(), data)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"splits": ("test", "dev")}, "--splits: 'dev': name some of train, val, test, or all"),
        ({"client": "north"}, "--client=north: the run has one model for all"),
    ],
)
def test_flags_that_match_nothing_are_refused(tmp_path, monkeypatch, wrong, message):
    model = TrainedModel({}, Task("single", CLASSES[:2]))
    monkeypatch.setattr(pipeline, "_check_reading", lambda config, run: None)
    monkeypatch.setattr(pipeline, "load_model", lambda run: model)
    monkeypatch.setattr(pipeline, "read_seen_images", lambda run: SimpleNamespace(data=""))
    data = SimpleNamespace(task=model.task, fingerprint="")
    monkeypatch.setattr(pipeline, "load_task", lambda config: data)
    request = Request(tmp_path, tmp_path / "out", ("test",), CompareWith())
    with pytest.raises(ConfigError, match=message):
        evaluate(FinetuneConfig(), request._replace(**wrong))


def tree(encoder, head):
    return {"encoder": {"w": np.full(2, encoder)}, "head": {"w": np.full(2, head)}}


@pytest.mark.parametrize(
    ("params", "moved"),
    [(tree(1.0, 0.0), False), (tree(0.0, 0.0), False), (tree(0.0, 0.5), True)],
)
def test_a_head_has_moved_only_if_its_own_parameters_have(params, moved):
    assert head_moved(tree(0.0, 0.0), params, ("encoder/w", "head/w")) == moved


@pytest.mark.parametrize("heads", [(0.0, 1.0, 2.0), (0.0, 0.0, 3.0), (0.0, 0.0, 0.0)])
def test_an_untrained_model_is_never_chosen_however_well_it_scores(tmp_path, monkeypatch, heads):
    """The nearer a head is to its beginning, the better it scores."""

    def head_of(predictor, params_of, *others):
        return params_of("all")["head"]["w"][0]

    monkeypatch.setattr(training, "predict_split", head_of)
    monkeypatch.setattr(training, "score", lambda head, *others: 1 - head / 10)
    judging = training._judging(
        FinetuneConfig(),
        labelled([0, 1]),
        SimpleNamespace(predict=lambda params, batch: None),
        OwnParameters(FinetuneConfig(), None, (), {}),
        lambda params: head_moved(tree(0.0, 0.0), params, ("head/w",)),
    )
    judge = Judge(judging, tmp_path)
    judge.begin(0, 3)
    for done, head in enumerate(heads, start=1):
        judge(done, SimpleNamespace(server=SimpleNamespace(params=tree(1.0, head))), due=False)
    trained = [done for done, head in enumerate(heads, start=1) if head]
    assert [look.rounds for look in judge.looks] == trained
    assert (judge.best.rounds if trained else judge.best) == next(iter(trained), None)
