"""The row store of labelled images."""

from dataclasses import dataclass

import numpy as np

from ufm_jax.data.cache.store import RowStore, SubsetStore


@dataclass(frozen=True)
class LabelledStore:
    """Random access to images with labels or masks.

    Attributes:
        images: The images, with 'label'.
        targets: float32 [R, C], 1 = has it, 0 = has not, nan = unknown; None for segmentation.
        masks: Class numbers in place of pixels, for segmentation; None for diagnosis.
    """

    images: RowStore
    targets: np.ndarray | None = None
    masks: RowStore | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C)."""
        return self.images.image_shape

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows as ``RowStore.read`` does.

        Its fields come with 'labels' float32 [R, num_classes] for diagnosis (the one-hot code of a
        single label), and with 'mask' uint8 [R, S, S] for segmentation.
        """
        found = self.images.read(rows)
        if self.targets is not None:
            found["labels"] = self.targets[rows]
        if self.masks is not None:
            found["mask"] = self.masks.read(rows)["image"][..., 0]
        return found

    def take(self, rows: np.ndarray) -> "LabelledStore":
        """A store of some rows, in the order given."""
        return LabelledStore(
            SubsetStore(self.images, rows),
            None if self.targets is None else self.targets[rows],
            None if self.masks is None else SubsetStore(self.masks, rows),
        )
