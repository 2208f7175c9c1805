"""The protocol: the exact sum whoever is lost when, and no sum where it would give one away."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography", reason="the protocol needs ufm-jax[privacy]")

from ufm_jax.fed.privacy.primitives import decrypt, encrypt, mask_words
from ufm_jax.fed.privacy.protocol import Client, ProtocolError, Server
from ufm_jax.fed.privacy.secret_sharing import PRIME, combine, split

NEVER = 4
"""Round before which a client is lost; 0 is not played, as nobody would know of it."""


def vectors(count, size=9):
    return np.random.default_rng(count).integers(0, 2**32, (count, size), dtype=np.uint32)


def entropy_of(client):
    return np.random.Generator(np.random.Philox(client)).bytes


class Run:
    """A run of the protocol in which client i + 1 is lost before round ``lost[i]``."""

    def __init__(self, lost, threshold):
        self.lost = dict(enumerate(lost, start=1))
        self.clients = {
            k: Client(k, vector, threshold, entropy_of(k))
            for k, vector in enumerate(vectors(len(lost)), start=1)
        }
        self.server = Server(threshold)

    def there(self, stage):
        return [k for k, gone in self.lost.items() if gone > stage]

    def to_masked(self):
        """Rounds 0 to 2: who is said to have arrived."""
        keys = self.server.take_keys([client.advertise() for client in self.clients.values()])
        shares = [self.clients[k].share(keys) for k in self.there(1)]
        self.passed_on = self.server.take_shares([one for sent in shares for one in sent])
        masked = [self.clients[k].masked_vector(self.passed_on[k]) for k in self.there(2)]
        return self.server.take_vectors(masked)

    def sum(self):
        arrived = self.to_masked()
        return self.server.take_unmasking([self.clients[k].unmask(arrived) for k in self.there(3)])


@settings(max_examples=40)
@given(st.data())
def test_the_sum_is_exact_or_refused_whoever_is_lost(data):
    lost = data.draw(st.lists(st.integers(1, NEVER), min_size=2, max_size=6))
    threshold = data.draw(st.integers(len(lost) // 2 + 1, len(lost)))
    run = Run(lost, threshold)
    if len(run.there(3)) < threshold:
        with pytest.raises(ProtocolError, match=str(threshold)):
            run.sum()
        return
    expected = sum(run.clients[k].vector.astype(object) for k in run.there(2)) % 2**32
    np.testing.assert_array_equal(run.sum(), expected.astype(np.uint32))


def test_no_question_is_answered_twice():
    run = Run([NEVER] * 3, 2)
    keys = run.server.take_keys([client.advertise() for client in run.clients.values()])
    run.clients[1].share(keys)
    with pytest.raises(ProtocolError, match="every key encrypts one message"):
        run.clients[1].share(keys)
    run = Run([NEVER] * 3, 2)
    run.to_masked()
    with pytest.raises(ProtocolError, match="show the masks of a pair"):
        run.clients[1].masked_vector(run.passed_on[1][:1])


def test_what_the_server_is_sent_of_one_client_is_not_its_vector():
    """And changes altogether with the client's secrets, which are all that changes here."""
    seen = []
    for shift in (0, 10):
        run = Run([NEVER] * 3, 2)
        for k, client in run.clients.items():
            run.clients[k] = Client(k, client.vector, 2, entropy_of(k + shift))
        run.to_masked()
        seen.append(run.server._vectors[1])
    assert (seen[0] != run.clients[1].vector).all()
    assert (seen[0] != seen[1]).all()


@pytest.mark.parametrize(("threshold", "count"), [(1, 2), (2, 4), (4, 3), (0, 1)])
def test_a_threshold_that_two_halves_could_meet_is_refused(threshold, count):
    with pytest.raises(ProtocolError, match="more than half"):
        Run([NEVER] * count, threshold).sum()


def test_nobody_gives_both_kinds_of_share_of_one_client():
    """The server says that client 2 arrived, then that it was lost."""
    run = Run([NEVER] * 5, 3)
    run.to_masked()
    first = run.clients[1].unmask([1, 2, 3, 4, 5])
    assert 2 in first.own_masks
    assert not set(first.own_masks) & set(first.mask_keys)
    with pytest.raises(ProtocolError, match="asked twice"):
        run.clients[1].unmask([1, 3, 4, 5])


@pytest.mark.parametrize(
    ("arrived", "message"),
    [
        ([1, 2], "fewer than 3"),
        ([1, 1, 1, 2], "fewer than 3"),
        ([2, 3, 4], "not among"),
        ([1, 2, 3, 9], "not among"),
    ],
)
def test_questions_that_would_unmask_too_few_are_not_answered(arrived, message):
    run = Run([NEVER] * 5, 3)
    run.to_masked()
    with pytest.raises(ProtocolError, match=message):
        run.clients[1].unmask(arrived)


def test_a_key_that_is_advertised_twice_is_refused():
    run = Run([NEVER] * 3, 2)
    keys = [client.advertise() for client in run.clients.values()]
    with pytest.raises(ProtocolError, match="twice"):
        run.clients[1].share([*keys[:2], keys[1]])
    with pytest.raises(ProtocolError, match="twice"):
        run.clients[1].share([*keys[:2], replace(keys[1], client=3)])


@pytest.mark.parametrize("change", ["bit", "sender", "receiver"])
def test_shares_that_are_changed_on_their_way_are_noticed(change):
    run = Run([NEVER] * 3, 2)
    arrived = run.to_masked()
    first, second = run.clients[1]._received[2], run.clients[1]._received[3]
    flipped = bytes([first.ciphertext[0] ^ 1]) + first.ciphertext[1:]
    run.clients[1]._received[2] = {
        "bit": replace(first, ciphertext=flipped),
        "sender": replace(first, ciphertext=second.ciphertext),
        "receiver": run.clients[3]._received[2],
    }[change]
    with pytest.raises(ValueError, match="changed on its way"):
        run.clients[1].unmask(arrived)


def test_a_wrong_share_of_a_lost_clients_key_is_noticed():
    run = Run([NEVER, NEVER, 2], 2)
    arrived = run.to_masked()
    answers = [run.clients[k].unmask(arrived) for k in (1, 2)]
    # So small a change that the result is again 32 bytes: only the public key tells.
    two = 2 * pow(2 - 1, -1, PRIME)
    wrong = {3: (answers[0].mask_keys[3] + pow(two, -1, PRIME) * 2**200) % PRIME}
    answers[0] = replace(answers[0], mask_keys=wrong)
    with pytest.raises(ProtocolError, match="client 3 do not give the private key"):
        run.server.take_unmasking(answers)


def test_an_answer_to_another_question_is_refused():
    run = Run([NEVER] * 3, 2)
    arrived = run.to_masked()
    answers = [run.clients[1].unmask(arrived), run.clients[2].unmask([1, 2])]
    with pytest.raises(ProtocolError, match="client 2 answered another question"):
        run.server.take_unmasking(answers)


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 7), st.data())
def test_any_t_shares_give_the_secret_and_fewer_do_not(secret, threshold, data):
    holders = range(1, 8)
    shares = split(secret, threshold, holders, entropy_of(1))
    some = data.draw(st.permutations(holders))[:threshold]
    held = {k: shares[k] for k in some}
    assert combine(held, threshold, 32) == secret
    if threshold > 1:
        held.popitem()
        with pytest.raises(ValueError, match=f"takes {threshold}"):
            combine(held, threshold, 32)
        with pytest.raises(ValueError, match="do not belong"):
            combine(held, threshold - 1, 32)


def test_fewer_shares_fit_every_secret_alike():
    """One share of a line: for any secret there is a slope, and slopes are drawn uniformly."""
    share = split(b"\x07", 2, [1, 2], entropy_of(1))[1]
    for secret in (0, 7, 2**200):
        slope = (share - secret) % PRIME
        assert combine({1: share, 2: (secret + 2 * slope) % PRIME}, 2, 64) == secret.to_bytes(64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((bytes(65), 1, [1]), "share 64 at most"),
        ((bytes(32), 1, [0, 1]), "from 1"),
        ((bytes(32), 1, [1, 1]), "differently"),
        ((bytes(32), 3, [1, 2]), "give from 1 to the number of holders"),
    ],
)
def test_secrets_that_cannot_be_shared_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        split(*arguments, entropy_of(1))


def test_masks_are_the_key_stream_of_the_standard():
    """RFC 8439, appendix A.1, test vector 1."""
    assert mask_words(bytes(32), 4).astype("<u4").tobytes() == bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28"
    )


def test_what_is_encrypted_is_bound_to_its_context():
    message = encrypt(bytes(32), b"share", b"from 1 to 2")
    assert decrypt(bytes(32), message, b"from 1 to 2") == b"share"
    with pytest.raises(ValueError, match="changed on its way"):
        decrypt(bytes(32), message, b"from 1 to 3")
