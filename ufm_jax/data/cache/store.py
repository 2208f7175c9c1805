"""Row stores: random access to decoded rows, in memory or in a cache folder."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.cache.row_file import CheckedRows


class RowStore(Protocol):
    """Random access to decoded rows."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C) of every row's image."""
        ...

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows.

        Args:
            rows: int [R], each in 0..len-1, in any order, repeats allowed.

        Returns:
            'image' uint8 [R, S, S, C], 'extent' int32 [R, 2] (height, width), 'geometry' float32
            [R, 7], 'label' int32 [R] (-1 = none).
        """
        ...


@dataclass(frozen=True)
class ArrayStore:
    """Rows in memory, in the arrays that ``RowStore.read`` gathers from."""

    images: np.ndarray
    extents: np.ndarray
    geometry: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows; see ``RowStore.read``."""
        return {
            "image": self.images[rows],
            "extent": self.extents[rows],
            "geometry": self.geometry[rows],
            "label": self.labels[rows],
        }


@dataclass(frozen=True)
class CachedStore:
    """Rows of a cache folder.

    Attributes:
        cached: The open folder.
        rows: int64 [R], the folder's row behind each row of this store.
        labels: int32 [R], -1 = none.
    """

    cached: CachedRows
    rows: np.ndarray
    labels: np.ndarray
    _images: CheckedRows = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_images", self.cached.images())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        return self.cached.image_shape

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows; see ``RowStore.read``.

        Raises:
            DataError: If an image in the cache is damaged.
        """
        inner = self.rows[rows]
        return {
            "image": self._images.read(inner),
            "extent": self.cached.extents[inner],
            "geometry": self.cached.geometry[inner],
            "label": self.labels[rows],
        }


@dataclass(frozen=True)
class SubsetStore:
    """Some rows of a store, as a store.

    Attributes:
        store: The whole.
        rows: int64 [R], rows of the whole.
    """

    store: RowStore
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        return self.store.image_shape

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows; see ``RowStore.read``."""
        return self.store.read(self.rows[rows])
