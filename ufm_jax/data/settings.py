"""What the user may say about the data, typed and checked."""

import os
from dataclasses import dataclass
from operator import lt
from typing import Annotated, Literal

from ufm_jax.data.scans.frames import DIFFERENT, check_frames
from ufm_jax.errors import DataError
from ufm_jax.phantoms import MIN_SIZE
from ufm_jax.ranges import Checked, LogSpread, Range, Seed

Level = Annotated[float, Range(-(2.0**32), 2.0**32)]
"""A value of a pixel."""


@dataclass(frozen=True)
class DataSettings(Checked):
    """Where the images come from and who holds them.

    Attributes:
        source: 'synthetic' (simulated phantoms), 'lists' (a list of paths a client), 'index'
            (index.csv), 'folders' (a folder a client), 'tfds', 'array_record'.
        root: Folder of the data.
        lists: 'lists': folder of the list files, relative to ``root``.
        index: 'index': the files, relative to ``root``; none = all index.csv at most one folder
            deep.
        client_columns: 'index', 'tfds': columns or features that name the client; none = each set
            is a client.
        exclude_folders: 'folders': names, in any case, of folders that do not hold images to learn
            from.
        exclude_files: 'folders': patterns, in any case, of names of files that are not images to
            learn from, such as a mask beside its image; '*' stands for anything.
        partition: 'site' (as the source gives it), 'iid', 'dirichlet' (label skew), 'lognormal'.
        num_clients: Clients of every partition but 'site'.
        clients_per_set: 'site': 'set:count' splits a large site into several clients.
        alpha: 'dirichlet': concentration.
        partition_sigma: 'lognormal' and ``clients_per_set``: spread of the log sizes; 0 = even.
        splits: Keep records of these splits ('' = those without one); none = keep all.
        exclude: 'index': leave out the records with 'column=value', or 'set:column=value' of one
            set alone; such as 'breast:fold5=0', a test fold that pretraining shall not see.
        require_labels: An image without a label is a fault.
        working_size: S.
        channels: 1, 3, or 'auto' (3 if any image has colour).
        value_range: (black, white) of all files of more than 8 bits, such as (0, 4095) for 12 bits
            stored in 16, or (0, 1) for floats; () = what each file's header says.
        frames: Which frames of DICOM files, clips and NIfTI are taken: 'different' (each that
            differs from the one taken before), 'all', 'every:N' (each N-th) or 'evenly:N' (N at
            equal distances).
        whole_frames: Take frames whole where the scan cannot be told from what surrounds it: for
            files that show nothing else. Such a picture of a screen may show a name.
        detect_geometry: Find the scan geometry where the source does not bring it.
        cache_dir: Decoded images are kept here, readable by the owner alone; '' = ~/.cache/ufm_jax.
        on_bad: 'error' stops at unusable images and clients, 'skip' leaves them out and lists them.
        duplicates: Images that several clients hold: 'error', 'skip' (keep the first), 'keep'. If
            several splits hold a labelled image, 'keep' leaves it out of the test, and of the
            validation if it is trained on; 'skip' leaves it out of what is trained on.
        num_workers: Decoding threads; 0 = one a core. No number changes the result.
        seed: Seed of partitions and phantoms.
        num_sites: 'synthetic': institutions.
        mean_size: 'synthetic': mean images of an institution.
        sigma: 'synthetic': spread of the log of the institutions' sizes.
    """

    source: Literal["synthetic", "lists", "index", "folders", "tfds", "array_record"] = "synthetic"
    root: str = ""
    lists: str = "16_clients/split_1"
    index: tuple[str, ...] = ()
    client_columns: tuple[str, ...] = ()
    exclude_folders: tuple[str, ...] = (
        *("mask", "masks", "label", "labels", "labelme", "annotation", "annotations"),
        *("segmentation", "segmentations", "groundtruth", "ground_truth"),
    )
    exclude_files: tuple[str, ...] = (
        *("*_mask.*", "*_mask_*.*", "*.mask.*", "*_seg.*", "*.seg.*", "*_segmentation.*"),
        *("*_label.*", "*_annotation.*", "*_gt.*"),
    )
    partition: Literal["site", "iid", "dirichlet", "lognormal"] = "site"
    num_clients: Annotated[int, Range(1, 1_000_000)] = 16
    clients_per_set: tuple[str, ...] = ()
    alpha: Annotated[float, Range(1e-6)] = 0.5
    partition_sigma: LogSpread = 0.0
    splits: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require_labels: bool = False
    working_size: Annotated[int, Range(1, 8192)] = 224
    channels: Literal["auto", 1, 3] = "auto"
    value_range: tuple[Level, ...] = ()
    frames: str = DIFFERENT
    whole_frames: bool = False
    detect_geometry: bool = True
    cache_dir: str = ""
    on_bad: Literal["error", "skip"] = "error"
    duplicates: Literal["error", "skip", "keep"] = "keep"
    num_workers: Annotated[int, Range(0, 1024)] = 0
    seed: Seed = 0
    num_sites: Annotated[int, Range(1, 100_000)] = 16
    mean_size: Annotated[int, Range(1, 1_000_000)] = 64
    sigma: LogSpread = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "synthetic" and self.working_size < MIN_SIZE:
            raise DataError(
                f"working_size={self.working_size}: phantoms have {MIN_SIZE} pixels or more"
            )
        if self.value_range and not (len(self.value_range) == 2 and lt(*self.value_range)):
            raise DataError(
                f"value_range={self.value_range}: give black and white, such as (0, 4095), or ()"
            )
        if self.source != "synthetic" and not self.root:
            raise DataError(f"source {self.source!r} needs `root`, the folder of the data")
        if self.client_columns and self.source not in ("index", "tfds"):
            raise DataError("client_columns name columns or features: set source='index' or 'tfds'")
        if self.exclude and self.source != "index":
            raise DataError("exclude names columns of index.csv: set source='index'")
        if self.clients_per_set and self.partition != "site":
            raise DataError("clients_per_set splits sites: set partition='site'")
        check_frames(self.frames)
        self.set_counts()
        self.exclusions()

    @property
    def workers(self) -> int:
        """Decoding threads."""
        return self.num_workers or os.cpu_count() or 1

    def set_counts(self) -> dict[str, int]:
        """Clients to make of each set, from ``clients_per_set``."""
        counts = {}
        for entry in self.clients_per_set:
            name, _, count = entry.rpartition(":")
            if not name or not count.isdecimal() or int(count) < 1:
                raise DataError(f"clients_per_set: {entry!r} is not 'set:count' with a count >= 1")
            counts[name] = int(count)
        return counts

    def exclusions(self) -> tuple[tuple[str, str, str], ...]:
        """``exclude`` as (set, column, value); the set is '' where all are meant."""
        rules = []
        for entry in self.exclude:
            place, _, value = entry.partition("=")
            of_set, _, column = place.rpartition(":")
            if not column or not value:
                raise DataError(f"exclude: {entry!r} is not 'column=value' or 'set:column=value'")
            rules.append((of_set, column, value))
        return tuple(rules)


@dataclass(frozen=True)
class PretrainingSettings(DataSettings):
    """The images to pretrain on, and those that are held out to judge the model.

    Attributes:
        holdout_fraction: Share of each client's images that is held out, in whole groups; 0 for
            none.
        holdout_splits: Hold out the records of these splits instead. They are read even where
            ``splits`` names others.
    """

    holdout_fraction: Annotated[float, Range(0, 0.9)] = 0.05
    holdout_splits: tuple[str, ...] = ()
