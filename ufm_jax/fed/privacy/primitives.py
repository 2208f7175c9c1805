"""The cryptography that the protocol of secure aggregation stands on.

Key agreement: X25519, then HKDF with SHA-256. Encryption: ChaCha20-Poly1305. Generator of masks:
the ChaCha20 key stream. The package ``cryptography`` implements all of them.
"""

import numpy as np
import numpy.typing as npt

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as missing:
    raise ImportError(
        "secure aggregation's protocol needs cryptography: pip install 'ufm-jax[privacy]'"
    ) from missing

KEY_BYTES = 32

Words = npt.NDArray[np.uint32]


def public_key(private: bytes) -> bytes:
    """The public key that belongs to 32 random bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes, for one purpose, that only the owners of the two keys can compute.

    Raises:
        ValueError: If the public key is one of the few that would agree on a known value.
    """
    shared = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(shared)


_NO_NONCE = bytes(12)
"""A fixed nonce is safe, since every key encrypts one message."""


def encrypt(key: bytes, message: bytes, context: bytes) -> bytes:
    """Encrypts and authenticates a message and its context with a key that is used once."""
    return ChaCha20Poly1305(key).encrypt(_NO_NONCE, message, context)


def decrypt(key: bytes, ciphertext: bytes, context: bytes) -> bytes:
    """The message of a ciphertext.

    Raises:
        ValueError: If the ciphertext or its context is not what was encrypted.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NO_NONCE, ciphertext, context)
    except InvalidTag as error:
        raise ValueError("a ciphertext was changed on its way, or is for somebody else") from error


def mask_words(seed: bytes, size: int) -> Words:
    """uint32 [size] from a seed of 32 bytes: the ChaCha20 key stream, little-endian words."""
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, "<u4").astype(np.uint32)
