"""Masks of simulated images: the lesion, which the simulator knows."""

from dataclasses import dataclass

import numpy as np

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.data.records import Picture
from ufm_jax.data.sources.synthetic import SimulatedImage
from ufm_jax.phantoms.generate import phantom


@dataclass(frozen=True)
class SimulatedMask:
    """Handle of a phantom's mask.

    Attributes:
        image: Handle of the phantom's image.
    """

    image: SimulatedImage

    @classmethod
    def of(cls, image: object) -> "SimulatedMask":
        """The mask of a simulated image.

        Raises:
            TypeError: If it is no simulated image.
        """
        if not isinstance(image, SimulatedImage):
            raise TypeError(f"{image} is not simulated: it has no mask of its own")
        return cls(image)

    @property
    def name(self) -> str:
        """For messages."""
        return f"mask of {self.image.name}"

    def fingerprint(self) -> bytes:
        """Changes whenever the image's does."""
        return digest(b"mask", self.image.fingerprint())

    def load(self) -> Picture:
        """Simulates the image again, for its mask: 1 is the lesion."""
        image = self.image
        simulated = phantom(image.seed, image.site, image.index, image.size)
        height, width = (int(side) for side in simulated.extent)
        return Picture(np.asarray(simulated.mask)[:height, :width])
