"""A site: it answers the server's letters from its own images, which stay where they are."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.data.federated import FederatedData
from ufm_jax.deployment.kept import load_kept, save_kept
from ufm_jax.deployment.messages import Letter, from_arrays, to_arrays
from ufm_jax.deployment.secure import Memory, RestartedError, SecureSite
from ufm_jax.deployment.study import Study, differences
from ufm_jax.errors import DataError, RunError, UserError
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.keys import fold
from ufm_jax.fed.plan import ClientResult
from ufm_jax.fed.privacy.protocol import ProtocolError
from ufm_jax.fed.privacy.secure_sum import encoded
from ufm_jax.fed.server import first_state, round_noise
from ufm_jax.fed.site import Site, receive, site_of
from ufm_jax.objectives.reconstruction import FIELDS
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.train.federation import fitted
from ufm_jax.train.feed import Feed
from ufm_jax.train.pretraining import load_data


class SiteRun:
    """One site of a study."""

    def __init__(self, study: Study, name: str, folder: Path, memory: Memory) -> None:
        """Reads nothing yet.

        Args:
            study: This site's own copy, with the folder of its images.
            name: The site's name in the study.
            folder: Where it keeps its state between rounds.
            memory: What it has in memory between letters, and nowhere else.
        """
        self._study, self._name, self._folder, self._memory = study, name, folder, memory
        self._number = study.number(name)

    def answer(self, letter: Letter) -> Letter:
        """The answer to a letter; an error is told in one line, as a letter of kind 'error'.

        Where the study says secure aggregation, nothing is answered that is not masked.
        """
        secure = self._secure
        kinds: dict[str, Callable[[Letter], Letter]] = {"enrol": self.enrol}
        if secure is None:
            kinds["train"] = self.train
        else:
            kinds |= {"keys": lambda _: secure.keys(), "shares": secure.shares}
            kinds |= {"count": self.count, "masked": self.masked, "unmask": secure.unmask}
        try:
            if letter.kind not in kinds:
                raise RunError(f"it does not answer letters of kind {letter.kind!r}")
            return kinds[letter.kind](letter)
        except RestartedError as error:
            return Letter("lost", {"error": str(error)})
        except UserError as error:
            return Letter("error", {"error": str(error)})
        except ProtocolError as error:
            return Letter("error", {"error": f"secure aggregation: {error}"})

    def enrol(self, letter: Letter) -> Letter:
        """Tells the number of examples, if the server's study is this site's own.

        Raises:
            RunError: Naming the keys that differ.
        """
        differ = differences(self._study.facts(self._name), letter.facts, "the server")
        if differ:
            raise RunError(f"the study of the server is not this site's ({differ})")
        return Letter("enrol", {} if self._secure else {"examples": self._data.num_rows})

    def train(self, letter: Letter) -> Letter:
        """Trains a round, and sends the update and what a round reports of a client."""
        update, result = self._trained(letter)
        facts = {key: getattr(result, key) for key in REPORTED}
        return Letter("train", facts, to_arrays(update) if result.finite else {})

    def count(self, letter: Letter) -> Letter:
        """Sends the number of examples, masked."""
        assert self._secure is not None
        return self._secure.masked(letter, np.array([self._data.num_rows], np.uint32))

    def masked(self, letter: Letter) -> Letter:
        """Trains a round, and sends the weighted update and the weight, masked.

        Raises:
            RunError: If all sites together are said to have fewer examples than this one.
        """
        assert self._secure is not None
        k, total = self._number, int(letter.facts["examples"])
        if total < self._data.num_rows:
            raise RunError(f"{total} examples of all sites are fewer than this site has")
        share = self._study.share(self._data.num_rows, total)
        update, result = self._trained(letter)
        if not result.finite:  # Nothing, with no weight.
            update, share = jax.tree.map(np.zeros_like, update), 0.0
        key = fold(round_noise(self._site, int(letter.facts["round"])), k)
        turn = Turn(jnp.int32(k), jnp.float32(share), jnp.int32(0), key)
        vector = jax.jit(encoded, static_argnums=0)(self._study.fixed_point, update, turn)
        return self._secure.masked(letter, np.asarray(vector))

    def _trained(self, letter: Letter) -> tuple[Tree, ClientResult]:
        """This site's update of a round, and what a round reports of a client.

        Raises:
            RunError: If the server's arrays do not fit, or this site's state is gone.
        """
        round_index, since = int(letter.facts["round"]), int(letter.facts["since"])
        site, first = self._site, self._first
        message = jax.eval_shape(site.algorithm.broadcast, first)
        sent = from_arrays(message, letter.arrays, "the server")
        kept = site.algorithm.init_client(first.params)
        if site.algorithm.stateful:
            kept = load_kept(self._folder, since, kept)
        state = site.begin(receive(site.algorithm, first, sent), kept)
        feed, begin = Feed(self._study.config.placement, self._data, site, FIELDS), 0
        while True:
            chunk = feed.take(round_index, begin)
            state, metrics = site.run_chunk(state, *chunk)
            ended, begin = feed.following(chunk)
            if ended > round_index:
                break
        feed.close()
        update, kept = site.end(state)
        (result,) = site.results(chunk.plan, metrics)
        if site.algorithm.stateful:
            save_kept(self._folder, round_index, kept, since)
        return update, result

    @cached_property
    def _secure(self) -> SecureSite | None:
        if not self._study.secure:
            return None
        return SecureSite(self._number, len(self._study.sites), self._folder, self._memory)

    @cached_property
    def _data(self) -> FederatedData:
        data = load_data(self._study.config)
        if data.num_clients != 1:
            raise DataError(
                f"{self._study.config.data.root}: it holds clients {', '.join(data.names)}, and a "
                "site is one client: name a folder with one"
            )
        return data

    @cached_property
    def _site(self) -> Site:
        # Nobody tells a site the others' numbers of examples, on which nothing of its own depends.
        federation = self._study.federation([self._data.num_rows] * len(self._study.sites))
        privacy = self._study.config.federation.privacy
        if privacy.noise_seed >= 0:  # A secret one is the server's, and hides its model from sites.
            noise = noise_words(privacy, self._folder, begun=True)
            federation = replace(federation, noise=noise)
        site = fitted(site_of(federation, self._number), self._study.config.placement, self._data)
        assert isinstance(site, Site)
        return site

    @cached_property
    def _first(self) -> Any:
        return first_state(self._site, self._study.first_params()).server


REPORTED = ("loss", "examples", "steps", "update_norm", "finite")
"""What a site reports of a round, beside its update."""
