"""A federation of simulated institutions, each with its own look and number of images."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ufm_jax import phantoms, randomness
from ufm_jax.data.cache.fingerprint import code_stamp, digest
from ufm_jax.data.records import Listing, Picture, Record
from ufm_jax.phantoms.generate import Phantom, phantom
from ufm_jax.phantoms.lesion import LABEL_NAMES
from ufm_jax.phantoms.site import site_sizes


@dataclass(frozen=True)
class SimulatedImage:
    """Handle of one phantom: computed when it is loaded, from these numbers alone.

    Attributes:
        seed: Seed of the whole federation.
        site: Number of the institution.
        index: Number of the image within it.
        size: Longer side in pixels.
    """

    seed: int
    site: int
    index: int
    size: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"phantom(seed={self.seed}, site={self.site}, index={self.index})"

    def fingerprint(self) -> bytes:
        """Changes with the numbers, and with the simulator's code."""
        numbers = (self.seed, self.site, self.index, self.size)
        return digest(repr(numbers).encode(), _simulator_stamp())

    def simulate(self) -> Phantom:
        """The image with its truth."""
        return phantom(self.seed, self.site, self.index, self.size)

    def load(self) -> Picture:
        """Simulates the image; its geometry is known exactly."""
        made = self.simulate()
        geometry = np.asarray(made.geometry, np.float32)
        return Picture(made.picture_of(made.image), geometry, LABEL_NAMES[made.label])


@dataclass(frozen=True)
class SimulatedMask:
    """Handle of a phantom's mask: the lesion, which the simulator knows.

    Attributes:
        image: Handle of the phantom's image.
    """

    image: SimulatedImage

    @property
    def name(self) -> str:
        """For messages."""
        return f"mask of {self.image.name}"

    def fingerprint(self) -> bytes:
        """Changes whenever the image's does."""
        return digest(b"mask", self.image.fingerprint())

    def load(self) -> Picture:
        """Simulates the image again, for its mask: 1 is the lesion."""
        made = self.image.simulate()
        return Picture(made.picture_of(made.mask))


def read_synthetic(
    seed: int, num_sites: int, mean_size: int, sigma: float, working_size: int
) -> Listing:
    """Lists the images of simulated institutions, with masks; labels come with the pictures.

    The clients are 'site_0' and so on. The arguments are the settings of these names.
    """
    sizes = site_sizes(seed, num_sites, mean_size, sigma)
    digits = len(str(num_sites - 1))
    names = tuple(f"site_{site:0{digits}d}" for site in range(num_sites))
    images = [
        SimulatedImage(seed, site, index, working_size)
        for site, size in enumerate(sizes)
        for index in range(int(size))
    ]
    records = tuple(Record(names[i.site], i, mask=SimulatedMask(i)) for i in images)
    return Listing(names, records)


@lru_cache(maxsize=1)
def _simulator_stamp() -> bytes:
    return code_stamp(phantoms, randomness)
