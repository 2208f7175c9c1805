"""Objectives of diagnosis and segmentation: what they predict, and what their losses heed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.config.finetuning import (
    EvaluationConfig,
    FinetuneConfig,
    LossConfig,
    NetworkConfig,
    TrainingViewConfig,
)
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.task import Task
from ufm_jax.objectives import segmentation
from ufm_jax.objectives.diagnosis import _tempered
from ufm_jax.objectives.task import make_objective
from ufm_jax.ops.mixing import Mixing
from ufm_jax.prediction.predictor import Predictor

SINGLE = Task("single", ("cyst", "mass", "none"))
MULTI = Task("multi", ("fluid", "stone"))
BINARY = Task("segment", ("lesion",))
ORGANS = Task("segment", ("liver", "kidney"))


def config(task, **changes):
    kind = task.kind
    data = LabelSettings(
        source="folders",
        root=".",
        kind=kind,
        separator=";" if kind == "multi" else "",
    )
    model = NetworkConfig(
        size="xs", image_size=32, patch_size=8, channels=1, decoder_width=16, drop_path=0.1
    )
    return replace(FinetuneConfig(data=data, model=model), **changes)


def batch(task, count=4, side=40):
    rng = np.random.default_rng(7)
    rows = {
        "image": rng.integers(0, 256, (count, side, side, 1), np.uint8),
        "extent": np.array([[side, side - 6 * i] for i in range(count)], np.int32),
    }
    if task.kind == "single":
        rows["label"] = np.arange(count, dtype=np.int32) % task.num_classes
    elif task.kind == "multi":
        rows["labels"] = rng.integers(0, 2, (count, task.num_classes)).astype(np.float32)
    else:
        rows["mask"] = rng.integers(0, 1 + task.num_classes, (count, side, side), np.uint8)
    return rows


@pytest.fixture(scope="module", params=[SINGLE, MULTI, BINARY, ORGANS], ids=lambda t: t.kind)
def made(request):
    """A task, its configuration, objective and parameters with a head that says something."""
    chosen = config(request.param)
    objective = make_objective(chosen, request.param)
    params = objective.init(jax.random.key(1))
    noise = 0.1 * jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)
    params = params | {"head": params["head"] | {"kernel": noise}}
    objective = objective._replace(
        predict=jax.jit(objective.predict), loss_fn=jax.jit(objective.loss_fn)
    )
    return request.param, chosen, objective, params


def test_probabilities_have_the_tasks_shape_and_sum(made):
    task, _, objective, params = made
    found = objective.predict(params, batch(task))
    assert found.dtype == jnp.float32
    if task.kind == "segment":
        assert found.shape == (4, 32, 32, 1 + task.num_classes)
    else:
        assert found.shape == (4, task.num_classes)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    if task.kind != "multi":
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_mirrored_predictions_do_not_know_left_from_right(made):
    task, chosen, objective, params = made
    both = replace(chosen, evaluation=EvaluationConfig(mirror=True))
    predict = jax.jit(make_objective(both, task).predict)
    rows = batch(task)
    rows["extent"][:] = 40
    flipped = rows | {"image": rows["image"][:, :, ::-1]}
    straight, mirrored = predict(params, rows), predict(params, flipped)
    if task.kind == "segment":
        mirrored = mirrored[:, :, ::-1]
    np.testing.assert_allclose(straight, mirrored, atol=1e-5)
    assert float(jnp.abs(objective.predict(params, rows) - straight).max()) > 1e-5


def test_losses_are_per_example_and_the_same_for_the_same_keys(made):
    task, _, objective, params = made
    keys = jax.random.split(jax.random.key(3), 4)
    losses = objective.loss_fn(params, batch(task), keys)
    assert losses.shape == (4,)
    assert bool(jnp.isfinite(losses).all())
    np.testing.assert_array_equal(losses, objective.loss_fn(params, batch(task), keys))
    others = objective.loss_fn(params, batch(task), jax.random.split(jax.random.key(4), 4))
    assert float(jnp.abs(losses - others).min()) > 0


def test_a_frozen_encoder_has_no_gradient_that_could_be_clipped():
    sizes = {}
    for method in ("finetune", "frozen"):
        objective = make_objective(config(SINGLE, method=method), SINGLE)
        params = objective.init(jax.random.key(1))
        keys = jax.random.split(jax.random.key(0), 4)

        def mean_loss(params, loss_fn=objective.loss_fn, keys=keys):
            return loss_fn(params, batch(SINGLE), keys).mean()

        slopes = jax.jit(jax.grad(mean_loss))(params)
        parts = (jax.tree.leaves(slopes[name]) for name in ("encoder", "head"))
        sizes[method] = [max(float(jnp.abs(leaf).max()) for leaf in part) for part in parts]
    assert min(sizes["finetune"]) > 0
    assert sizes["frozen"][0] == 0
    assert sizes["frozen"][1] > 0


def test_what_is_unknown_has_no_influence():
    rows = batch(MULTI)
    rows["labels"][:, 1] = np.nan
    objective = make_objective(config(MULTI), MULTI)
    params = objective.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(3), 4)

    def loss_of_head(head):
        return objective.loss_fn(params | {"head": head}, rows, keys).sum()

    gradient = jax.jit(jax.grad(loss_of_head))(params["head"])["kernel"]
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(gradient[:, 0]).max()) > 0
    np.testing.assert_array_equal(gradient[:, 1], 0)

    rows = batch(BINARY)
    rows["mask"][:] = 255
    objective = make_objective(config(BINARY), BINARY)
    losses = jax.jit(objective.loss_fn)(objective.init(jax.random.key(1)), rows, keys)
    np.testing.assert_array_equal(losses, 0)


def test_the_network_sees_the_picture_and_not_what_lies_beside_it(made):
    task, _, objective, params = made
    rows = batch(task)
    beside = rows["image"].copy()
    for image, (height, width) in zip(beside, rows["extent"], strict=True):
        image[height:], image[:, width:] = 255, 255
    np.testing.assert_array_equal(
        objective.predict(params, rows), objective.predict(params, rows | {"image": beside})
    )


def test_cutmix_cuts_masks_as_it_cuts_pictures():
    """Pictures that equal their masks still do after mixing: bright where foreground is."""
    augment = TrainingViewConfig(mixing=Mixing(cutmix=1.0), erase=0.0)
    chosen = config(BINARY, augment=augment, loss=LossConfig(dice_weight=0.0))

    def by_brightness(network, params, patches, keys):
        del network, params, keys
        grey = patches.mean(-1).reshape(-1, 4, 4)
        return jnp.where(jnp.kron(grey, jnp.ones((8, 8))) > 0, 50.0, -50.0)[..., None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "training_logits", by_brightness)
        plain = replace(
            augment,
            moves=replace(augment.moves, area=(1.0, 1.0), degrees=0.0, zoom=(1.0, 1.0)),
            ultrasound=replace(augment.ultrasound, probability=0.0),
        )
        objective = make_objective(replace(chosen, augment=plain), BINARY)
        full = np.zeros((4, 40, 40), np.uint8)
        full[::2] = 1
        rows = {
            "image": 255 * full[..., None],
            "mask": full,
            "extent": np.full((4, 2), 40, np.int32),
        }
        losses = jax.jit(objective.loss_fn)({}, rows, jax.random.split(jax.random.key(0), 4))
    assert float(losses.max()) > 0, "something was cut"
    # Only patches on the border of a cut hold both classes.
    assert float(losses.max()) < 50 * 0.4


@pytest.mark.parametrize(("task", "counts"), [(BINARY, [98, 2]), (ORGANS, [90, 10, 0])])
def test_segmentation_starts_from_the_classes_shares(task, counts):
    """The head's bias alone predicts how often each class occurs; an absent one, next to never."""
    counts = np.array(counts)
    weights = np.where(counts > 0, counts.sum() / (len(counts) * np.maximum(counts, 1)), 0)
    params = segmentation.with_prior({"head": {"kernel": 1, "bias": 0}}, task, weights)
    assert params["head"]["kernel"] == 1
    bias = np.asarray(params["head"]["bias"], np.float64)
    logits = np.concatenate([[0], bias]) if task is BINARY else bias
    found = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found, counts / counts.sum(), atol=2e-4)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_average_one_over_the_images(power):
    counts = np.array([10, 30, 0, 60])
    weights = np.where(counts, counts.sum() / (4 * np.maximum(counts, 1)), 0)
    tempered = _tempered(weights, power, Task("single", ("a", "b", "c", "d")))
    assert float((tempered * counts).sum() / counts.sum()) == pytest.approx(1)
    assert float(tempered[2]) == 0
    assert float(tempered[0] / tempered[1]) == pytest.approx(3**power, rel=1e-5)


def test_a_predictor_compiles_once_and_does_not_heed_its_filling(made):
    task, _, objective, params = made
    rows = {name: leaf for name, leaf in batch(task).items() if name in ("image", "extent")}
    predictor = Predictor(objective.predict, 4)
    whole = predictor(params, rows)
    for count in (1, 3):
        part = predictor(params, {name: leaf[:count] for name, leaf in rows.items()})
        np.testing.assert_allclose(part, whole[:count], atol=1e-6)
    assert predictor._predict._cache_size() == 1
    with pytest.raises(ValueError, match="a batch of 0 images"):
        predictor(params, {name: leaf[:0] for name, leaf in rows.items()})
