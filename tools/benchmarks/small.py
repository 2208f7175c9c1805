"""A small federation of any population, for measuring the engine itself.

Clients have log-normal numbers of examples. An example is a function of its row number, and only
the rows of the round at hand are made: a population of a million takes no memory for its data.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.fed.plan import HostPlan

BATCH = 20
MEAN_EXAMPLES = 20
FEATURES, HIDDEN, CLASSES = 64, 128, 10


@dataclass
class SmallRound:
    """Round 0 of a small federation, to be run again and again.

    Attributes:
        federation: The federation.
        plan: Of round 0.
        examples: The round's examples, on the devices.
        rows: The plan's rows, counted inside ``examples``.
        state: The federation's state.
    """

    federation: Federation
    plan: HostPlan
    examples: Tree
    rows: np.ndarray
    state: FederationState = field(repr=False)

    def run(self) -> None:
        """Plans the round again, as every round needs, runs it, and returns when it is done."""
        plan = self.federation.plan(0)
        self.state, _ = self.federation.run_chunk(self.state, self.examples, plan, 0, self.rows)
        jax.block_until_ready(self.state)

    def params(self) -> np.ndarray:
        """The global parameters as one vector."""
        flat, _ = jax.flatten_util.ravel_pytree(jax.device_get(self.state.server.params))
        return np.asarray(flat)

    def device_bytes(self) -> int:
        """Bytes that the compiled round needs on each device, without the examples."""
        lowered = self.federation.lower(self.state, self.examples, self.plan, self.rows)
        memory: Any = lowered.compile().memory_analysis()
        examples = sum(leaf.nbytes for leaf in jax.tree.leaves(self.examples))
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes - examples


def small_federation(population: int, cohort: int, placement: Placement) -> Federation:
    """FedAvg with SGD over ``population`` clients, ``cohort`` of them a round."""
    rng = np.random.Generator(np.random.Philox(0))
    mu = math.log(MEAN_EXAMPLES) - 0.5
    sizes = np.maximum(1, rng.lognormal(mu, 1.0, population)).astype(np.int64)
    return Federation(
        _loss,
        fedavg(optax.sgd(0.2)),
        np.concatenate([[0], np.cumsum(sizes)]),
        Batching(BATCH),
        cohort_size=cohort,
        placement=placement,
    )


def small_round(population: int, cohort: int, placement: Placement) -> SmallRound:
    """Round 0 of ``small_federation``, ready to run."""
    federation = small_federation(population, cohort, placement)
    plan = federation.plan(0)
    needed, rows = _needed(plan)
    examples = federation.replicate(_make_examples(needed))
    return SmallRound(federation, plan, examples, rows, federation.init(_params()))


def relative_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Euclidean distance over the length of ``theirs``."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _needed(plan: HostPlan) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a round uses, and the plan's rows as numbers among them."""
    used = plan.rows >= 0
    needed, places = np.unique(plan.rows[used], return_inverse=True)
    rows = np.full_like(plan.rows, -1)
    rows[used] = places
    return needed, rows


def _make_examples(rows: np.ndarray) -> Tree:
    """Features, uniform in [-1, 1), and label of each row number."""
    x = np.arange(FEATURES, dtype=np.uint32) + FEATURES * rows.astype(np.uint32)[:, None]
    # The finaliser of MurmurHash3 (Appleby): a bijection of 32 bits that spreads every bit.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    features = x.astype(np.float32) / np.float32(2**31) - 1
    return {"x": features, "y": features[:, :CLASSES].argmax(axis=1).astype(np.int32)}


def _params() -> Params:
    keys = jax.random.split(jax.random.key(0))
    return {
        "w1": jax.random.normal(keys[0], (FEATURES, HIDDEN)) / math.sqrt(FEATURES),
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(keys[1], (HIDDEN, CLASSES)) / math.sqrt(HIDDEN),
        "b2": jnp.zeros(CLASSES),
    }


def _loss(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
    del keys
    hidden = jax.nn.relu(batch["x"] @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
