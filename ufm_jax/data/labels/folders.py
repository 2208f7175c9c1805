"""Folders whose names say what their images show, or which images are masks.

Layouts, each with or without the folders train, val and test, in upper or lower case:

    ROOT/train/CLASS/*.png                               diagnosis
    ROOT/train/image/*.png, ROOT/train/mask/*.png        segmentation, equal stems
    ROOT/train/CLASS/x.png, x_mask.png, x_mask_1.png     segmentation, masks beside their images
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ufm_jax.data.cells import matched, name_of, same_folder
from ufm_jax.data.issues import Issue
from ufm_jax.data.labels.masks.joined import JoinedMask
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.data.records import Listing, Record
from ufm_jax.data.scans.kinds import stem_of
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.folders import Exclusions, exclusions, named_like_masks, read_folders
from ufm_jax.errors import DataError
from ufm_jax.files import user_path

_BESIDE = re.compile(r"(.+)[_.](?:mask|seg|segmentation)(?:_\d+)?", re.IGNORECASE | re.DOTALL)


def read_split_folders(settings: LabelSettings) -> Listing:
    """Reads ROOT/train and so on, or ROOT itself where it has no such folders."""
    root = user_path(settings.root)
    if not root.is_dir():
        raise DataError(f"root {root} is not a folder")
    present = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    splits = _split_folders(present, settings.split)
    if splits and (beside := [name for name in present if name not in splits and name[0] != "."]):
        raise DataError(
            f"{root} has the folders {beside} beside {list(splits)}: move them into these, or away,"
            " or name what they mean in split.train_values, val_values or test_values"
        )
    _check_policy(root, splits, settings)
    exclude = exclusions(settings)
    parts = [
        _masked_folders(root / name, split, exclude, settings)
        if settings.kind == "segment"
        else _class_folders(root / name, split, exclude)
        for name, split in (splits or {"": ""}).items()
    ]
    client = root.resolve().name
    records = tuple(
        replace(r, client=client, attributes={"split": r.split, **r.attributes})
        for part in parts
        for r in part.records
    )
    excluded: Counter[str] = sum((Counter(part.excluded) for part in parts), Counter())
    issues = tuple(issue for part in parts for issue in part.issues)
    return Listing((client,), records, root, issues, dict(excluded))


def _split_folders(present: Sequence[str], split: SplitSettings) -> dict[str, str]:
    """The folders that mean a split, each with the value of the settings that it matches."""
    values = (*split.train_values, *split.val_values, *split.test_values)
    value_of = {value.casefold(): value for value in values}
    return {
        name: name if name in values else value_of[name.casefold()]
        for name in present
        if name.casefold() in value_of
    }


def _check_policy(root: Path, splits: Mapping[str, str], settings: LabelSettings) -> None:
    """Refuses a policy that would train on images that lie in a folder to test or choose by."""
    split, asked = settings.split, settings.splits
    used = set(matched("splits", asked, splits.values(), ("",)) if asked else splits.values())
    heeded = split.policy == "column" or (split.policy == "fold" and split.fold_column == "split")
    # If nothing is trained, all images may be taken together.
    if heeded or used <= set(split.train_values) or "train" not in split.required:
        return
    raise DataError(
        f"{root} has the folders {list(splits)}, which say what is trained on and what tests, and "
        f"split.policy={split.policy!r} takes no notice of them: set split.policy='column', or "
        "data.root to one of the folders to split its images alone"
    )


def _class_folders(root: Path, split: str, exclude: Exclusions) -> Listing:
    """ROOT/CLASS/.../*.png; the class is the label."""
    listing = read_folders(root, exclude)
    filled = {record.client for record in listing.records}
    empty = [
        Issue("empty_class", name, str(root / name), "holds no image")
        for name in listing.clients
        if name not in filled
    ]
    records = tuple(_of_class(record, split) for record in listing.records)
    return replace(
        listing, records=records, issues=(*listing.issues, *empty, *named_like_masks(listing))
    )


def _of_class(record: Record, split: str) -> Record:
    """A record labelled by its client, the folder of its class."""
    label = name_of(record.client)
    return replace(record, label=label, split=split, attributes={"label": label})


def _masked_folders(
    root: Path, split: str, exclude: Exclusions, settings: LabelSettings
) -> Listing:
    """ROOT/image/*.png with ROOT/mask/*.png, paired by path without suffix."""
    paired = (*settings.image_folders, *settings.mask_folders)
    # Masks are wanted here, so the defaults that leave them out do not hold.
    wanted = (*paired, *DataSettings.exclude_folders)
    folders = [f for f in exclude.folders if not any(same_folder(f, name) for name in wanted)]
    files = [f for f in exclude.files if f not in DataSettings.exclude_files]
    listing = read_folders(root, Exclusions(folders, files))
    usual = (*LabelSettings.image_folders, *LabelSettings.mask_folders)
    if paired == usual and not any(same_folder(c, n) for c in listing.clients for n in usual):
        return _masks_beside(root, listing, split)
    image_folder = _one_of(root, listing.clients, settings.image_folders, "image_folders")
    mask_folder = _one_of(root, listing.clients, settings.mask_folders, "mask_folders")
    masks = _by_stem(listing.records, root / mask_folder)
    images = _by_stem(listing.records, root / image_folder)
    records = tuple(
        replace(record, split=split, mask=masks[stem][1] if stem in masks else None)
        for stem, (record, _) in images.items()
    )
    lone = [
        Issue("lone_mask", image_folder, str(masks[stem][1]), f"no image {stem!r} in its place")
        for stem in masks
        if stem not in images
    ]
    used = {image_folder, mask_folder}
    beside = Counter(f"folder {r.client!r}" for r in listing.records if r.client not in used)
    issues: tuple[Issue, ...] = (*listing.issues, *lone)
    return Listing(listing.clients, records, root, issues, {**listing.excluded, **beside})


def _masks_beside(root: Path, listing: Listing, split: str) -> Listing:
    """ROOT/CLASS/x.png beside its masks x_mask.png, x_mask_1.png and so on."""
    masks: dict[str, list[Path]] = {}
    others: list[Record] = []
    for record in listing.records:
        path = Path(record.name)
        if found := _BESIDE.fullmatch(stem_of(path.relative_to(root)).as_posix()):
            masks.setdefault(found[1], []).append(path)
        else:
            others.append(record)
    images = _by_stem(others, root)
    if not masks:
        raise DataError(
            f"{root} has the folders {list(listing.clients)}: name those of images and "
            "masks in image_folders and mask_folders, or put x_mask.png beside x.png"
        )
    records = []
    for stem, (record, _) in images.items():
        files = tuple(masks.get(stem, ()))
        mask = JoinedMask(files) if len(files) > 1 else next(iter(files), None)
        records.append(replace(_of_class(record, split), mask=mask))
    lone = tuple(
        Issue("lone_mask", file.parent.name, str(file), "no image beside it")
        for stem, files in masks.items()
        for file in files
        if stem not in images
    )
    return replace(listing, records=tuple(records), issues=(*listing.issues, *lone))


def _by_stem(records: Sequence[Record], folder: Path) -> dict[str, tuple[Record, Path]]:
    """Records of the images below a folder, by path in it without suffix."""
    found: dict[str, tuple[Record, Path]] = {}
    for record in records:
        path = record.image
        if not isinstance(path, Path) or not path.is_relative_to(folder):
            continue
        stem = stem_of(path.relative_to(folder)).as_posix()
        if stem in found:
            raise DataError(
                f"{found[stem][1]} and {path} have one stem, by which images and masks are paired: "
                "rename or remove one"
            )
        found[stem] = record, path
    return found


def _one_of(root: Path, present: Sequence[str], names: Sequence[str], setting: str) -> str:
    """The one folder that has one of some names."""
    found = [folder for folder in present if any(same_folder(folder, name) for name in names)]
    if len(found) != 1:
        raise DataError(
            f"{root} has the folders {sorted(present)}, of which {found or 'none'} are among "
            f"{setting}={tuple(names)}: there must be one"
        )
    return found[0]
