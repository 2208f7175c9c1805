"""What every side of a comparison is given: parameters, examples, and who trains when.

Needs numpy only, since peers read it in environments of their own.
"""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]
"""Parameters by name."""

_SETTINGS = "settings.json"
_PARAM = "param."


@dataclass(frozen=True)
class Task:
    """Federated averaging by plain SGD.

    Attributes:
        name: For the reader.
        model: A name among ``models.MODELS``.
        batch_size: B, which divides every client's number of examples.
        learning_rate: Of the clients; the server takes the mean of the clients' parameters,
            weighted by their numbers of examples.
        params: Before the first round.
        x: float32 [R, ...] features, client by client; pictures are [H, W, C].
        y: int32 [R] labels.
        offsets: int64 [K + 1] client k owns the rows ``offsets[k] .. offsets[k + 1]``.
        cohorts: int64 [N, S] the clients of round r are ``cohorts[r % N]``.
        local_epochs: Passes over a client's examples in a round.
        dropout: Whether the model's dropout acts, where it has one.
        compared_rate: The learning rate in the round that is compared; None for the same.
        evaluate_every: Rounds after which the global model is evaluated, again and again; 0: never.
        evaluate_batch: Which divides the number of test examples.
        test_x: float32 [T, ...].
        test_y: int32 [T].
    """

    name: str
    model: str
    batch_size: int
    learning_rate: float
    params: Arrays
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    cohorts: npt.NDArray[np.int64]
    local_epochs: int = 1
    dropout: bool = False
    compared_rate: float | None = None
    evaluate_every: int = 0
    evaluate_batch: int = 200
    test_x: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    test_y: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def compared(self) -> "Task":
        """The task as its first round is compared between sides.

        Without dropout, whose masks cannot be equal; and slower where many steps at the full rate
        make large differences of small ones in rounding.
        """
        if not self.dropout and self.compared_rate is None:
            return self
        rate = self.compared_rate or self.learning_rate
        return replace(self, dropout=False, learning_rate=rate, compared_rate=None)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[K] examples of each client."""
        return np.diff(self.offsets)

    @property
    def examples_per_round(self) -> float:
        """Examples that a round trains on, each as often as it is used; the mean over rounds."""
        return float(self.sizes[self.cohorts].sum(axis=1).mean()) * self.local_epochs

    def cohort(self, round_index: int) -> list[int]:
        """The clients of a round."""
        clients: list[int] = self.cohorts[round_index % len(self.cohorts)].tolist()
        return clients

    def client(self, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Features and labels of a client."""
        rows = slice(self.offsets[k], self.offsets[k + 1])
        return self.x[rows], self.y[rows]

    @property
    def test_batches(self) -> dict[str, npt.NDArray[np.generic]]:
        """The test examples: ``x`` [N, B, ...] and ``y`` [N, B]."""
        shape = (-1, self.evaluate_batch)
        return {
            "x": self.test_x.reshape(*shape, *self.test_x.shape[1:]),
            "y": self.test_y.reshape(shape),
        }

    def evaluates(self, rounds: int) -> bool:
        """Whether the global model is evaluated after so many rounds of a run."""
        return self.evaluate_every > 0 and rounds % self.evaluate_every == 0

    def save(self, folder: Path) -> None:
        """Writes it: arrays each as a file, which processes can share in memory."""
        settings = {of.name: getattr(self, of.name) for of in fields(self)}
        arrays = {_PARAM + name: value for name, value in settings.pop("params").items()}
        for name in [name for name, value in settings.items() if isinstance(value, np.ndarray)]:
            arrays[name] = settings.pop(name)
        for name, value in arrays.items():
            if value.size:
                np.save(folder / f"{name}.npy", value)
        (folder / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Task":
        """Reads what ``save`` wrote; arrays stay in their files until they are used."""
        arrays = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
        params = {
            name.removeprefix(_PARAM): np.array(arrays.pop(name))
            for name in list(arrays)
            if name.startswith(_PARAM)
        }
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        return cls(params=params, **arrays, **settings)


def everybody(clients: int) -> npt.NDArray[np.int64]:
    """``cohorts`` for rounds in which all clients take part."""
    return np.arange(clients)[None]
