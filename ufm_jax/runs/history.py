"""The history of a run: one typed record a round, as JSON lines.

``metrics.jsonl`` is the record of truth, read by the report and by anybody's own scripts. It holds
one JSON object a line and every round at most once, in order, also after a run was killed and
resumed. Rounds count from zero.
"""

import dataclasses
import json
import logging
import math
import os
from pathlib import Path
from typing import Self

from ufm_jax.errors import RunError
from ufm_jax.files import private_folder, write_text
from ufm_jax.runs.stored import as_json, typed

HISTORY_FILE = "metrics.jsonl"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ClientRecord:
    """What one client of the cohort did in one round.

    Attributes:
        client: The client's name.
        loss: Mean loss over its local steps (nan where it was not finite).
        examples: Images it trained on in this round, with repeats.
        steps: Local optimiser steps, T_k.
        update_norm: Euclidean norm of its pseudo-gradient, ||w - w_k||.
        finite: Whether its update was finite and so took part in the average.
        lane: The lane it ran in, counted over all devices.
        begin: Its first step in that lane.
        end: One past its last step in that lane.
    """

    client: str
    loss: float
    examples: int
    steps: int
    update_norm: float
    finite: bool
    lane: int
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """What one round did.

    Attributes:
        round: The round's number, from zero.
        loss: Loss over the cohort, averaged with the client weights (nan where not finite).
        lr_factor: Factor of the schedule on the local learning rate, in the middle of the round.
        seconds: Wall-clock time of the round, without ``judging_seconds``.
        images: Images trained on by the whole cohort.
        images_per_second: ``images`` divided by ``seconds``.
        useful_fraction: Share of the lanes' step slots in which a client trained, 0..1.
        update_norm: Euclidean norm of the server's update.
        cohort: Number of clients in the round.
        rejected: Names of the clients whose update was left out.
        clients: One record for each client of the cohort.
        bytes_down: Bytes that clients received, those that did not answer in time included.
        bytes_up: Bytes that clients sent.
        late: Names of the clients that were asked and did not answer in time.
        virtual_seconds: What the round took on the virtual clock; nan without a clock.
        skipped: Whether too few updates came in for the aggregation rule, and nothing was updated.
        held_out_loss: Pretraining: mean loss of the model after the round over the images that are
            held out; nan in rounds without a look.
        held_out: That mean for each client that holds out images.
        probe: Pretraining: what frozen features tell of the labels of images that are held out, by
            task and figure; empty in rounds without a probe.
        validation_score: Fine-tuning: what the round is chosen by, on the validation split.
        judging_seconds: Wall-clock time of judging the model after the round.
    """

    round: int
    loss: float
    lr_factor: float
    seconds: float
    images: int
    images_per_second: float
    useful_fraction: float
    update_norm: float
    cohort: int
    rejected: list[str]
    clients: list[ClientRecord]
    bytes_down: int = 0
    bytes_up: int = 0
    late: list[str] = dataclasses.field(default_factory=list)
    virtual_seconds: float = math.nan
    skipped: bool = False
    held_out_loss: float = math.nan
    held_out: dict[str, float] = dataclasses.field(default_factory=dict)
    probe: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    validation_score: float = math.nan
    judging_seconds: float = 0.0


class MetricWriter:
    """Appends a run's records to its history, round by round.

    Opening it at round r drops what an earlier, interrupted run wrote for rounds r and later (and a
    last line cut short by a kill), by writing a new file and renaming it over the old one.
    Everything is handed to the operating system after every round.
    """

    def __init__(self, workdir: str | os.PathLike[str], resume_round: int) -> None:
        """Opens the history in ``workdir`` for rounds from ``resume_round`` on.

        Args:
            workdir: The run's folder; made if absent.
            resume_round: The first round that will be written; 0 starts the history anew.

        Raises:
            ValueError: If ``resume_round`` is negative.
            RunError: If a line of the existing history is not a record, and its round is not one of
                those that come again.
        """
        if resume_round < 0:
            raise ValueError(f"resume_round={resume_round}: rounds count from 0")
        folder = Path(workdir)
        private_folder(folder)
        path = folder / HISTORY_FILE
        kept = read_history(folder, resume_round)
        if len(kept) < resume_round:
            facts = (path, len(kept), resume_round)
            _log.warning("%s holds %d of the %d rounds before the resumed one", *facts)
        write_text(path, "".join(_to_json(record) + "\n" for record in kept))
        self._lines = path.open("a", encoding="utf-8")
        self._next_round = resume_round

    def write(self, record: RoundRecord) -> None:
        """Appends ``record`` and flushes.

        Raises:
            ValueError: If the record's round is not later than all rounds in the history.
        """
        if record.round < self._next_round:
            raise ValueError(
                f"round {record.round} is already in {self._lines.name}, and the next is "
                f"{self._next_round}: open a MetricWriter at the resumed round"
            )
        self._lines.write(_to_json(record) + "\n")
        self._lines.flush()
        self._next_round = record.round + 1

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_history(workdir: str | os.PathLike[str], rounds: int | None = None) -> list[RoundRecord]:
    """Reads the records of ``workdir``'s history, in order; empty without a history.

    A last line that a killed writer cut short is left out. Numbers that were not finite are nan.

    Args:
        workdir: The run's folder.
        rounds: How many rounds are wanted; None for all. Later ones are not read.

    Raises:
        RunError: If a line that is wanted is not a record, or not later than the one before; names
            the file and the line.
    """
    path = Path(workdir) / HISTORY_FILE
    if not path.exists():
        return []
    try:
        # Bytes are split, not text: a kill may cut a line inside a character.
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}); restore or remove it") from error
    records: list[RoundRecord] = []
    for number, line in enumerate([*lines, tail] if tail else lines, start=1):
        if rounds is not None and (records[-1].round + 1 if records else 0) >= rounds:
            _log.warning(
                "%s: what follows line %d is dropped: its rounds come again", path, number - 1
            )
            break
        try:
            record = typed(RoundRecord, json.loads(line))
            if records and record.round <= records[-1].round:
                raise ValueError(f"round {record.round} after round {records[-1].round}")
        except ValueError as error:
            if number > len(lines):
                _log.warning("%s: the last line was cut short and is left out", path)
                break
            raise RunError(
                f"{path}, line {number} is not a round's record ({error}): mend or delete the "
                "line; its round is then missing from the history"
            ) from error
        if rounds is None or record.round < rounds:
            records.append(record)
    return records


def _to_json(record: RoundRecord) -> str:
    """One line of strict JSON; numbers that are not finite become null."""
    return json.dumps(as_json(record), allow_nan=False)
