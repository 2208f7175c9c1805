"""Secure aggregation as messages between clients and a server (host).

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017,
figure 4, without what is underlined there (signatures and the consistency check against a server
that lies about who takes part). The server learns the sum, modulo 2^32, of the vectors of those of
the n clients that came as far as round 2, as long as t clients stay to the end:

    0  advertise  each client sends two public keys
    1  share      each client shares a private key and the seed of its own mask with all others
    2  masked     each client sends its vector, masked
    3  unmask     each client sends its shares: those of the private keys of clients that were lost
                  after round 1, and those of the own masks' seeds of the other clients

With both secrets of one client the server could take all masks off its vector. A client therefore
answers round 3 once, and t is above n / 2, so that two answers to different questions never make t
shares twice.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ufm_jax.fed.privacy import secret_sharing
from ufm_jax.fed.privacy.primitives import (
    KEY_BYTES,
    Words,
    agree,
    decrypt,
    encrypt,
    mask_words,
    public_key,
)
from ufm_jax.fed.privacy.secret_sharing import SHARE_BYTES, Entropy


class ProtocolError(ValueError):
    """The protocol cannot go on without breaking its promise."""


@dataclass(frozen=True)
class PublicKeys:
    """Round 0, to everybody: keys for messages between clients, and for masks."""

    client: int
    channel: bytes
    mask: bytes


@dataclass(frozen=True)
class EncryptedShares:
    """Round 1, through the server: the sender's two shares that the receiver keeps."""

    sender: int
    receiver: int
    ciphertext: bytes


@dataclass(frozen=True)
class MaskedVector:
    """Round 2, to the server."""

    client: int
    words: Words


@dataclass(frozen=True)
class Shares:
    """Round 3, to the server: shares that one client holds, by the client whose secret it is.

    Attributes:
        holder: Who holds them.
        mask_keys: Shares of the private keys of clients that were lost.
        own_masks: Shares of the seeds of clients whose vectors arrived.
    """

    holder: int
    mask_keys: Mapping[int, int]
    own_masks: Mapping[int, int]


def check_threshold(threshold: int, clients: int) -> None:
    """Refuses a threshold that cannot be met, or that two disjoint groups could both meet.

    Raises:
        ProtocolError: If it is not above half of the clients, or above all of them.
    """
    if not clients < 2 * threshold <= 2 * clients:
        raise ProtocolError(
            f"threshold={threshold} of {clients} clients: take more than half of them, and no more "
            "than all"
        )


@dataclass
class Client:
    """One client, through one run of the protocol.

    Attributes:
        number: Its number, 1 or more.
        vector: uint32 [n], of which only the sum shall be known.
        threshold: t.
        entropy: Source of its secrets.
    """

    number: int
    vector: Words = field(repr=False)
    threshold: int
    entropy: Entropy = secrets.token_bytes
    _keys: dict[int, PublicKeys] = field(default_factory=dict, init=False)
    _received: dict[int, EncryptedShares] = field(default_factory=dict, init=False)
    _kept: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _answered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._channel_key, self._mask_key, self._own_seed = (
            self.entropy(KEY_BYTES) for _ in range(3)
        )

    def advertise(self) -> PublicKeys:
        """Round 0: its two public keys."""
        return PublicKeys(self.number, public_key(self._channel_key), public_key(self._mask_key))

    def share(self, everybody: Sequence[PublicKeys]) -> list[EncryptedShares]:
        """Round 1: from the keys of all clients that advertised.

        Raises:
            ProtocolError: If they are too few for the threshold, or a key is there twice.
        """
        if self._keys:
            raise ProtocolError("asked twice for shares: every key encrypts one message")
        names = [keys.client for keys in everybody]
        public = [key for keys in everybody for key in (keys.channel, keys.mask)]
        if len(set(names)) < len(names) or len(set(public)) < len(public):
            raise ProtocolError("a client or a key was advertised twice")
        check_threshold(self.threshold, len(everybody))
        self._keys = {keys.client: keys for keys in everybody}
        mask_key, own_seed = (
            secret_sharing.split(secret, self.threshold, sorted(self._keys), self.entropy)
            for secret in (self._mask_key, self._own_seed)
        )
        self._kept = mask_key[self.number], own_seed[self.number]
        return [
            self._encrypt(other, mask_key[other], own_seed[other])
            for other in self._keys
            if other != self.number
        ]

    def masked_vector(self, received: Sequence[EncryptedShares]) -> MaskedVector:
        """Round 2: from what all clients that shared sent to this one.

        Raises:
            ProtocolError: If those clients are too few.
        """
        if self._received:
            raise ProtocolError(
                "asked twice for the masked vector: two of them with other senders show the masks "
                "of a pair"
            )
        self._received = {shares.sender: shares for shares in received}
        if len(self._received) + 1 < self.threshold:
            raise ProtocolError(
                f"{len(self._received) + 1} clients shared their secrets: {self.threshold} are "
                "needed, or the sum could not be unmasked"
            )
        words = self.vector + mask_words(self._own_seed, len(self.vector))
        for other in self._received:
            seed = pair_seed(self._mask_key, self._keys[other].mask)
            words = words + signed_mask(self.number, other, seed, len(words))
        return MaskedVector(self.number, words)

    def unmask(self, arrived: Sequence[int]) -> Shares:
        """Round 3: from the numbers of the clients whose masked vectors arrived.

        Raises:
            ProtocolError: If the answer would help to unmask one client.
            ValueError: If what another client sent was changed on its way.
        """
        if self._answered:
            raise ProtocolError(
                "asked twice who arrived: a second answer could give both kinds of share of one "
                "client, and so its vector"
            )
        if not set(arrived) <= {self.number, *self._received} or self.number not in arrived:
            raise ProtocolError("the clients that arrived are not among those that shared secrets")
        if len(set(arrived)) < self.threshold:
            raise ProtocolError(
                f"{len(set(arrived))} vectors arrived: with fewer than {self.threshold} the sum is "
                "not unmasked"
            )
        self._answered = True
        held = {other: self._decrypt(shares) for other, shares in self._received.items()}
        held[self.number] = self._kept
        return Shares(
            self.number,
            {k: mask_key for k, (mask_key, _) in held.items() if k not in arrived},
            {k: own_seed for k, (_, own_seed) in held.items() if k in arrived},
        )

    def _encrypt(self, other: int, *shares: int) -> EncryptedShares:
        key, context = self._channel(other, self.number, other)
        message = b"".join(share.to_bytes(SHARE_BYTES) for share in shares)
        return EncryptedShares(self.number, other, encrypt(key, message, context))

    def _decrypt(self, shares: EncryptedShares) -> tuple[int, int]:
        key, context = self._channel(shares.sender, shares.sender, self.number)
        message = decrypt(key, shares.ciphertext, context)
        return int.from_bytes(message[:SHARE_BYTES]), int.from_bytes(message[SHARE_BYTES:])

    def _channel(self, other: int, sender: int, receiver: int) -> tuple[bytes, bytes]:
        """The key and the context of what one client sends another: one for each direction."""
        context = f"shares from {sender} to {receiver}".encode()
        return agree(self._channel_key, self._keys[other].channel, context), context


def pair_seed(private: bytes, public: bytes) -> bytes:
    """The seed of the mask that two clients share."""
    return agree(private, public, b"pair mask")


def signed_mask(client: int, other: int, seed: bytes, size: int) -> Words:
    """What ``client`` adds for a mask that it shares: the other one adds the opposite."""
    mask = mask_words(seed, size)
    return mask if other > client else np.negative(mask)


@dataclass
class Server:
    """The server: it passes messages on, and finds the sum.

    Attributes:
        threshold: t.
    """

    threshold: int
    _keys: dict[int, PublicKeys] = field(default_factory=dict, init=False)
    _shared: set[int] = field(default_factory=set, init=False)
    _vectors: dict[int, Words] = field(default_factory=dict, init=False)

    def take_keys(self, advertised: Sequence[PublicKeys]) -> list[PublicKeys]:
        """Round 0: what every client is sent.

        Raises:
            ProtocolError: If the threshold does not fit the clients.
        """
        check_threshold(self.threshold, len(advertised))
        self._keys = {keys.client: keys for keys in advertised}
        return list(advertised)

    def take_shares(self, sent: Sequence[EncryptedShares]) -> dict[int, list[EncryptedShares]]:
        """Round 1: what each client that shared is sent.

        Raises:
            ProtocolError: If fewer clients shared than the threshold.
        """
        self._shared = {shares.sender for shares in sent}
        self._enough(len(self._shared), "shared their secrets")
        return {k: [shares for shares in sent if shares.receiver == k] for k in self._shared}

    def take_vectors(self, sent: Sequence[MaskedVector]) -> list[int]:
        """Round 2: who arrived, to ask the clients for shares with.

        Raises:
            ProtocolError: If fewer vectors arrived than the threshold.
        """
        self._vectors = {vector.client: vector.words for vector in sent}
        self._enough(len(self._vectors), "sent a masked vector")
        return sorted(self._vectors)

    def take_unmasking(self, sent: Sequence[Shares]) -> Words:
        """Round 3: the sum of the vectors that arrived, modulo 2^32.

        Raises:
            ProtocolError: If fewer clients answered than the threshold, or their shares are not
                those asked for, or those of a lost client do not give its private key.
        """
        self._enough(len(sent), "answered")
        lost_clients = self._shared - set(self._vectors)
        for answer in sent:
            if (set(answer.own_masks), set(answer.mask_keys)) != (set(self._vectors), lost_clients):
                raise ProtocolError(f"client {answer.holder} answered another question")
        total: Words = np.sum(list(self._vectors.values()), axis=0, dtype=np.uint32)
        for client in self._vectors:
            seed = self._combine({answer.holder: answer.own_masks[client] for answer in sent})
            total = total - mask_words(seed, len(total))
        for lost in lost_clients:
            key = self._combine({answer.holder: answer.mask_keys[lost] for answer in sent})
            if public_key(key) != self._keys[lost].mask:
                raise ProtocolError(
                    f"the shares of client {lost} do not give the private key of the public key "
                    "that it advertised: one of them is wrong"
                )
            for client in self._vectors:
                seed = pair_seed(key, self._keys[client].mask)
                total = total - signed_mask(client, lost, seed, len(total))
        return total

    def _combine(self, shares: Mapping[int, int]) -> bytes:
        try:
            return secret_sharing.combine(shares, self.threshold, KEY_BYTES)
        except ValueError as error:
            raise ProtocolError(f"a secret cannot be recovered: {error}") from error

    def _enough(self, count: int, did: str) -> None:
        if count < self.threshold:
            raise ProtocolError(f"{count} clients {did}: the protocol needs {self.threshold}")
