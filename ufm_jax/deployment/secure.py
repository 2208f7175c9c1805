"""Secure aggregation over letters: the server learns the sum of the sites' vectors, and no vector.

The four messages of ``fed/privacy/protocol.py``, which says what is promised. A site that is lost
after it shared its secrets is left out, and its masks are taken out of the sum. Two sums over other
sites would give one away: once a site has helped to unmask a round's sum, it helps with that round
again for the same sites alone, as after a server was killed.
"""

import pickle
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.deployment.messages import Exchange, Letter, gather
from ufm_jax.errors import RunError
from ufm_jax.fed.privacy.primitives import Words
from ufm_jax.fed.privacy.protocol import (
    Client,
    EncryptedShares,
    MaskedVector,
    ProtocolError,
    PublicKeys,
    Server,
    Shares,
)
from ufm_jax.files import private_folder, read_json, write_json

_CLIENT, _ROUND, _UNMASKED = "secure aggregation", "round", "unmasked.json"
_NO_VECTOR = np.zeros(0, np.uint32)

COUNTING = -1
"""In place of a round: the sum of the sites' numbers of examples, before the first."""

Memory = MutableMapping[str, bytes]
"""What a site's process has in memory between letters, and loses when it ends."""


class RestartedError(RunError):
    """A site has lost its secrets of this round, and is lost for it."""


def threshold(sites: int) -> int:
    """The fewest sites with which a sum is unmasked: more than half."""
    return sites // 2 + 1


class SecureSite:
    """A site's part in the protocol."""

    def __init__(self, number: int, sites: int, folder: Path, memory: Memory) -> None:
        """Arguments: the client's number, how many sites there are, and what the site keeps."""
        self._number, self._sites = number + 1, sites
        self._file, self._memory = folder / _UNMASKED, memory

    def keys(self) -> Letter:
        """Begins the protocol: secrets are drawn, and their public keys sent."""
        client = Client(self._number, _NO_VECTOR, threshold(self._sites))
        advertised = client.advertise()
        self._remember(client)
        return Letter("keys", {"keys": [advertised.channel.hex(), advertised.mask.hex()]})

    def shares(self, letter: Letter) -> Letter:
        """Shares the secrets with all sites that sent keys."""
        client = self._recall()
        shares = client.share([_keys(*entry) for entry in letter.facts["keys"]])
        self._remember(client)
        return Letter("shares", {"shares": [_share_facts(one) for one in shares]})

    def masked(self, letter: Letter, vector: Words) -> Letter:
        """Sends the vector, masked."""
        client = self._recall()
        client.vector = vector
        masked = client.masked_vector([_share(*entry) for entry in letter.facts["shares"]])
        client.vector = _NO_VECTOR  # It is not needed again.
        self._remember(client)
        self._memory[_ROUND] = str(letter.facts.get("round", COUNTING)).encode()
        return Letter("masked", {}, {"words": masked.words})

    def unmask(self, letter: Letter) -> Letter:
        """Sends shares of secrets by which the masks are taken out of the sum.

        Raises:
            RunError: If this site has done so for this round or a later one, and for other sites;
                or if not all sites are in the sum of their numbers of examples.
        """
        client = self._recall()
        asked = {"round": int(self._memory[_ROUND]), "arrived": letter.facts["arrived"]}
        if asked["round"] != COUNTING:
            self._only_once(asked)
        elif len(asked["arrived"]) < self._sites:
            raise RunError("the numbers of examples are summed over all sites, or not at all")
        answer = client.unmask(asked["arrived"])
        self._remember(client)
        return Letter(
            "unmask",
            {
                kind: [[k, hex(share)] for k, share in shares.items()]
                for kind, shares in (("lost", answer.mask_keys), ("own", answer.own_masks))
            },
        )

    def _only_once(self, asked: Mapping[str, Any]) -> None:
        """Refuses to unmask a round's sum over other sites than before, or an earlier round's."""
        done = read_json(self._file, "restore it", dict) if self._file.exists() else {}
        if done.get("round", COUNTING) >= asked["round"] and done != asked:
            raise RunError(
                f"round {asked['round']}: this site has unmasked the sum of round {done['round']} "
                f"over sites {done['arrived']}; another one now, over {asked['arrived']}, could "
                "give one site's update away: begin anew, with an empty state folder at each site"
            )
        write_json(private_folder(self._file.parent) / self._file.name, asked)

    def _remember(self, client: Client) -> None:
        self._memory[_CLIENT] = pickle.dumps(client)

    def _recall(self) -> Client:
        if _CLIENT not in self._memory:
            raise RestartedError("it was started again within a round of secure aggregation")
        client: Client = pickle.loads(self._memory[_CLIENT])  # What this site itself put there.
        return client


def secure_sum_of(
    letters: Mapping[str, Letter],
    numbers: Mapping[str, int],
    round_index: int,
    exchange: Exchange,
    least: int = 0,
) -> tuple[Words, list[str]]:
    """The sum, modulo 2^32, of the sites' vectors, and the sites in it.

    Args:
        letters: What each site makes its vector from.
        numbers: Each site's number in the study.
        round_index: The round.
        exchange: Sends letters; a site that has sent its keys, and then does not answer, is lost.
        least: The fewest sites with which the protocol begins; 0 waits for all.

    Raises:
        RunError: If too few sites answer.
    """
    place = {site: numbers[site] + 1 for site in letters}
    server = Server(threshold(len(letters)))

    def ask(kind: str, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Letter]:
        return exchange({site: Letter(kind, facts[site]) for site in facts})

    try:
        answers = gather({site: Letter("keys") for site in letters}, exchange, least)
        keys = [_keys(place[site], *answer.facts["keys"]) for site, answer in answers.items()]
        everybody = [_key_facts(one) for one in server.take_keys(keys)]
        answers = ask("shares", {site: {"keys": everybody} for site in answers})
        shared = [_share(*one) for answer in answers.values() for one in answer.facts["shares"]]
        passed = server.take_shares(shared)
        masked = exchange(
            {
                site: _with_shares(letter, passed[place[site]])
                for site, letter in letters.items()
                if site in answers
            }
        )
        vectors = [MaskedVector(place[site], x.arrays["words"]) for site, x in masked.items()]
        arrived = server.take_vectors(vectors)
        answers = ask("unmask", {site: {"arrived": arrived} for site in masked})
        total = server.take_unmasking([_shares(place[k], x) for k, x in answers.items()])
    except ProtocolError as error:
        raise RunError(f"secure aggregation, round {round_index}: {error}") from error
    return total, sorted(masked, key=place.__getitem__)


def _with_shares(letter: Letter, shares: Sequence[EncryptedShares]) -> Letter:
    facts = {**letter.facts, "shares": [_share_facts(one) for one in shares]}
    return Letter(letter.kind, facts, letter.arrays)


def _keys(client: int, channel: str, mask: str) -> PublicKeys:
    return PublicKeys(client, bytes.fromhex(channel), bytes.fromhex(mask))


def _key_facts(keys: PublicKeys) -> list[Any]:
    return [keys.client, keys.channel.hex(), keys.mask.hex()]


def _share(sender: int, receiver: int, ciphertext: str) -> EncryptedShares:
    return EncryptedShares(sender, receiver, bytes.fromhex(ciphertext))


def _share_facts(shares: EncryptedShares) -> list[Any]:
    return [shares.sender, shares.receiver, shares.ciphertext.hex()]


def _shares(holder: int, letter: Letter) -> Shares:
    read: Callable[[str], dict[int, int]] = lambda kind: {  # noqa: E731
        k: int(share, 16) for k, share in letter.facts[kind]
    }
    return Shares(holder, read("lost"), read("own"))
