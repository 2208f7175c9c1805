"""Encoder sizes by name: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al. 2021) and MAE.

Size xs is not published; it learns something on a CPU in minutes.
"""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class EncoderSize:
    """The shape of a vision transformer.

    Attributes:
        width: D, channels of a token.
        depth: Number of blocks.
        heads: Attention heads a block; they divide ``width``.
        patch: Side of a patch, in pixels, of the published models of this size.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.patch) < 1:
            raise ValueError(f"{self}: width, depth, heads and patch must be positive")
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"{self}: width must be a multiple of heads, and of 4 for its position embedding"
            )


SIZES = MappingProxyType(
    {
        "xs": EncoderSize(width=96, depth=4, heads=3, patch=8),
        "ti": EncoderSize(width=192, depth=12, heads=3),
        "s": EncoderSize(width=384, depth=12, heads=6),
        "b": EncoderSize(width=768, depth=12, heads=12),
        "l": EncoderSize(width=1024, depth=24, heads=16),
        "h": EncoderSize(width=1280, depth=32, heads=16, patch=14),
    }
)
