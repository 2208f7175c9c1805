"""From the sections of a configuration to a federation: for pretraining and fine-tuning alike."""

from collections.abc import Sequence

import optax

from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import LossFn
from ufm_jax.fed.algorithms.fedavg import LrFactor, fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement, make_placement
from ufm_jax.train.config import FederationConfig, PlacementConfig, check_cohort


def build_placement(config: PlacementConfig) -> Placement:
    """The devices and lanes that a configuration asks for."""
    return make_placement(
        config.devices or None,
        config.lanes,
        data_parallel=config.data_parallel,
        loop=config.loop,
    )


def build_federation(
    config: FederationConfig,
    placement: PlacementConfig,
    data: FederatedData,
    loss_fn: LossFn,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    *,
    lr_factor: LrFactor,
    personal: Sequence[str],
    seed: int,
) -> Federation:
    """A federation over ``data``.

    Args:
        config: Clients, rounds and local work.
        placement: Devices, lanes, and where the images live.
        data: The clients' images.
        loss_fn: ``(params, batch, keys) -> losses [B]``.
        client_optimizer: At its peak learning rate.
        server_optimizer: Applied to the pseudo-gradient.
        lr_factor: The learning rate's schedule.
        personal: Paths of the parameters that stay with each client, as regular expressions.
        seed: Everything random is folded from it.

    Raises:
        ConfigError: If a cohort is larger than the population.
        ValueError: If the parts do not fit.
    """
    check_cohort(config, data.num_clients)
    return Federation(
        loss_fn=loss_fn,
        algorithm=fedavg(
            client_optimizer,
            server_optimizer,
            client_state=config.client_state,
            personal=personal,
            lr_factor=lr_factor,
        ),
        offsets=data.offsets,
        batching=Batching(
            config.batch_size,
            config.local_epochs or None,
            config.local_steps or None,
            config.partial_batch,
        ),
        cohort_size=config.cohort_size or None,
        client_weights=config.client_weights,
        placement=build_placement(placement),
        seed=seed,
        examples_sharded=placement.data_home != "device",
    )
