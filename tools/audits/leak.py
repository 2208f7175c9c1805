"""What one step of federated pretraining shows of a client's images, under a configuration."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tools.audits.inversion import Attack, invert, matched, peak_signal
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import LossFn, Params, Turn
from ufm_jax.fed.gradient import Batch
from ufm_jax.fed.keys import fold
from ufm_jax.objectives.reconstruction import View, make_model, reconstruct, to_patches
from ufm_jax.objectives.views import plain_views
from ufm_jax.ops.losses import masked_patch_loss
from ufm_jax.ops.masking import texture_mask
from ufm_jax.ops.texture import texture_scores
from ufm_jax.train.algorithm import make_gradient, sent_through

Pictures = npt.NDArray[np.float32]
"""[B, H, W, C] in 0..255."""


class Leak(NamedTuple):
    """What an attacker made of one kind of message.

    Attributes:
        title: What was seen.
        pictures: In the order of the true ones.
        decibels: [B] peak signal-to-noise ratio against the true ones.
        cosine: Of the gradient that was seen with that of the pictures found.
    """

    title: str
    pictures: Pictures
    decibels: npt.NDArray[np.float64]
    cosine: float


def pictures_of(data: FederatedData, client: int, count: int, size: int) -> Pictures:
    """The first pictures of a client as the model sees them, whole.

    Raises:
        ValueError: If it has fewer.
    """
    first, last = data.offsets[client], data.offsets[client + 1]
    if last - first < count:
        raise ValueError(f"client {data.names[client]!r} has {last - first} images, not {count}")
    batch = data.store.read(np.arange(first, first + count))
    return np.asarray(plain_views(batch, size))


def view_of(model: ModelConfig, masked_as: Pictures, key: jax.Array) -> Callable[..., View]:
    """``pictures -> view``, with the masks that other pictures had: the attacker knows them."""
    scores = jax.vmap(lambda x: texture_scores(x, model.patch_size))(jnp.asarray(masked_as))
    keys = jax.random.split(key, len(masked_as))
    masks = jax.vmap(lambda k, s: texture_mask(k, s, model.mask_ratio, model.texture_strength))(
        keys, scores
    )
    return lambda pictures: View(pictures, pictures, scores, masks)


def loss_of_views(model: ModelConfig) -> LossFn:
    """The objective of pretraining on views that are made already."""
    network = make_model(model)

    def loss_fn(params: Params, views: View, keys: jax.Array) -> jax.Array:
        del keys
        prediction = reconstruct(network, model, params, views)
        return jax.vmap(
            lambda p, t, m: masked_patch_loss(p, t, m, normalise_target=model.normalise_target)
        )(prediction, to_patches(views.clean, model), views.masking.mask)

    return loss_fn


def as_sent(config: PretrainConfig, params: Params, key: jax.Array, views: View) -> Params:
    """What a client sends of one step on a batch: its gradient, clipped, noised or compressed.

    Noise that the server adds after it has seen the update is not in it.
    """
    gradient, size = make_gradient(config.federation), len(views.scores)
    batch = Batch(views, jnp.ones(size, bool), jax.random.split(key, size), jnp.float32(size))
    _, update = gradient.share(loss_of_views(config.model), params, batch)
    update = gradient.finish(update, fold(key, "step"))
    for i, f in enumerate(sent_through(config.federation, cohort=1)):
        turn = Turn(jnp.int32(0), jnp.float32(1), jnp.int32(0), fold(key, "transform", i))
        update, _, _ = f.send(f.init_server(update), f.init_client(update), update, turn)
    return update


def attack_message(
    title: str,
    model: ModelConfig,
    params: Params,
    everybodys: Pictures,
    count: int,
    key: jax.Array,
    attack: Attack,
    seen: Callable[[View], Params],
) -> Leak:
    """Attacks a message about some pictures, and compares the first ``count`` with the truth.

    Args:
        title: What the message is.
        model: Sizes and masking.
        params: Where the client's step began.
        everybodys: All pictures that the message is about.
        count: How many of them, from the first, are the victim's.
        key: Of masks, noise, and the beginning of the search.
        attack: How hard the attacker tries.
        seen: ``view of the pictures -> message``.
    """
    make_view, loss_fn = (
        view_of(model, everybodys, fold(key, "mask")),
        loss_of_views(model),
    )
    keys = jax.random.split(key, len(everybodys))

    def gradient_of(pictures: jax.Array) -> Params:
        return jax.grad(lambda p: loss_fn(p, make_view(pictures), keys).mean())(params)

    message = jax.jit(seen)(make_view(jnp.asarray(everybodys)))
    found = invert(gradient_of, message, everybodys.shape, fold(key, "search"), attack)
    true = everybodys[:count]
    pictures = found.pictures[matched(found.pictures, true)]
    return Leak(title, pictures, peak_signal(pictures, true), found.cosine)
