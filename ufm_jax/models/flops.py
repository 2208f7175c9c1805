"""Floating-point operations of the models, counted from their matrix products.

A product [M, K] x [K, N] is 2 M K N operations. A block of width D over T tokens has 12 D^2 weights
(3 D^2 in qkv, D^2 in the projection, 8 D^2 in the MLP) and two products of attention:

    block(T, D) = 24 T D^2 + 4 T^2 D

Norms, GELU, softmax and additions are few, and left out. So is the optimiser, which does not grow
with the batch.
"""

from ufm_jax.models.sizes import EncoderSize


def mae_forward_flops(
    size: EncoderSize,
    num_patches: int,
    num_kept: int,
    features: int,
    decoder_width: int = 512,
    decoder_depth: int = 8,
) -> int:
    """Operations of a masked autoencoder's forward pass over one image.

    Args:
        size: The encoder's width and depth.
        num_patches: N.
        num_kept: Nk, patches the encoder sees.
        features: F, values a patch.
        decoder_width: Channels of the decoder's tokens.
        decoder_depth: Blocks of the decoder.
    """
    encoder = _dense(num_kept, features, size.width) + size.depth * _block(1 + num_kept, size.width)
    embed = _dense(1 + num_kept, size.width, decoder_width)
    blocks = decoder_depth * _block(1 + num_patches, decoder_width)
    predict = _dense(num_patches, decoder_width, features)
    return encoder + embed + blocks + predict


def training_flops(forward_flops: int) -> int:
    """Operations of both passes: each product has two gradients, which cost as much as itself."""
    return 3 * forward_flops


def _block(tokens: int, width: int) -> int:
    return _dense(tokens, width, 12 * width) + 4 * tokens**2 * width


def _dense(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs
