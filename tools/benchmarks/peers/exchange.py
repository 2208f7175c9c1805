"""What every side of a comparison is given, as one file: parameters, examples, and their order.

Needs numpy only, since peers read it in environments of their own.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]
"""Parameters by name."""

_PARAM = "param."


@dataclass(frozen=True)
class Task:
    """Federated averaging by plain SGD, one epoch a client and round, all clients every round.

    Attributes:
        model: A name among ``federations.MODELS``.
        batch_size: B, which divides every client's number of examples.
        learning_rate: Of the clients; the server takes the mean of the clients' parameters,
            weighted by their numbers of examples.
        params: Before the first round.
        x: float32 [R, F] features, client by client.
        y: int32 [R] labels.
        offsets: int64 [K + 1] client k owns the rows ``offsets[k] .. offsets[k + 1]``.
    """

    model: str
    batch_size: int
    learning_rate: float
    params: Arrays
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[K] examples of each client."""
        return np.diff(self.offsets)

    @property
    def clients(self) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
        """Features and labels of each client."""
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.x[start:end], self.y[start:end]

    def in_order(self, order: npt.NDArray[np.integer]) -> "Task":
        """The same with rows rearranged: row i is what was row ``order[i]``."""
        return replace(self, x=self.x[order], y=self.y[order])

    def save(self, file: Path) -> None:
        """Writes it as .npz."""
        fields = asdict(self)
        params = {_PARAM + name: value for name, value in fields.pop("params").items()}
        np.savez(file, **fields, **params)

    @classmethod
    def load(cls, file: str) -> "Task":
        """Reads what ``save`` wrote."""
        with np.load(file) as fields:
            params = {
                name.removeprefix(_PARAM): fields[name]
                for name in fields
                if name.startswith(_PARAM)
            }
            return cls(
                str(fields["model"]),
                int(fields["batch_size"]),
                float(fields["learning_rate"]),
                params,
                fields["x"],
                fields["y"],
                fields["offsets"],
            )
