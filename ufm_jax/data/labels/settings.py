"""What the user may say about labels, masks and splits, typed and checked."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from ufm_jax.data.cells import name_of, text_of
from ufm_jax.data.labels.masks.classes import parse_mask_classes
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.ranges import Checked, Count, Pattern, Range, Seed

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

Fraction = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class SplitSettings(Checked):
    """Which images are trained on, chosen by and tested on. Groups always stay whole.

    Attributes:
        policy: 'column' (the source says so: a column, or the folders train, val and test), 'fold'
            (by number), 'fractions' (drawn, stratified by class; not where folders name the test).
        column: 'column': name of the column.
        fold_column: 'fold': name of the column of folds.
        test_fold: 'fold': f, the fold to test on; fold (f + 1) mod n is the validation, unless
            ``val_fraction`` is 0.
        train_values: 'column': values, and names of folders in any case, that mean training.
        val_values: 'column': values that mean validation.
        test_values: 'column': values that mean test.
        val_fraction: Share drawn for validation: of all images under 'fractions', of the training
            images under 'column' if no image is marked for validation.
        test_fraction: 'fractions': share of all images drawn for the test.
        torn_groups: A group in two splits is an 'error', or is moved ('move') as a whole to the
            first of train, val, test that holds any of it.
        required: Splits that must not be empty; ('test',) where another site's images are only
            tested on.
        seed: Seed of the draws, which depend on the names of groups, not on the order of files.
    """

    policy: Literal["column", "fold", "fractions"] = "column"
    column: str = "split"
    fold_column: str = "fold5"
    test_fold: Count = 0
    train_values: tuple[str, ...] = ("train", "training")
    val_values: tuple[str, ...] = ("val", "valid", "validation")
    test_values: tuple[str, ...] = ("test", "testing")
    val_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.2
    torn_groups: Literal["error", "move"] = "error"
    required: tuple[Split, ...] = ("train", "val", "test")
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction + self.test_fraction >= 1:
            raise DataError("split.val_fraction and test_fraction leave nothing to train on")
        if not self.required:
            raise DataError(f"split.required={self.required}: name some of {SPLITS}")
        values = [*self.train_values, *self.val_values, *self.test_values]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise DataError(f"split: the values {twice} mean two splits: give each to one")


@dataclass(frozen=True)
class LabelSettings(DataSettings):
    """Labelled images: where they come from, for which task, and how they are split.

    Source 'folders' means CLASS/*.png, or train/CLASS/*.png and so on, for diagnosis; image/*.png
    and mask/*.png, or train/image and so on, for segmentation.

    Attributes:
        split: Train, validation and test.
        kind: 'single' (one class an image), 'multi' (several findings an image), 'segment' (masks).
        label_columns: Columns, or keys of the notes, that hold the label; several columns are a
            finding each (1/0, yes/no, empty = unknown).
        separator: 'multi' with one column: the text between its findings.
        classes: Names in the order of their numbers; 'name=a|b' merges values; none = all values,
            in alphabetical order.
        leave_out: Values of the first label column whose images are left out, and counted.
        mask_column: 'index': column of the masks' paths, relative to the index.
        mask_classes: 'segment': none = binary (0/1, 0/255, greys thresholded at half of full
            scale); 'value:name' for each value, such as '1:liver', '#ff0000:vessel', '255:ignore';
            plain names stand for the values 1, 2, ...; ('auto',) = all values that occur, in sorted
            order.
        image_folders: 'folders', 'segment': names of the folders of images.
        mask_folders: 'folders', 'segment': names of the folders of masks, whose stems are the
            images'.
        notes_column: 'index': column of 'key=value' pairs, each of which serves as a column.
        group_column: Column of the groups; '' = the source's own (``group``, else ``patient``).
        group_pattern: Regular expression whose parentheses find the group in the path of an image
            that has none, such as '(patient_[0-9]+)'.
        spacing_key: Column or key of the notes: mm per pixel.
        spacing_size_columns: Columns of the (width, height) in pixels that the spacing refers to;
            it is scaled for a file of another size. Without them it refers to the file.
        unlabelled: Images without label or mask: 'error', or 'skip' to leave them out and list
            them.
    """

    split: SplitSettings = field(default_factory=SplitSettings)
    kind: Literal["single", "multi", "segment"] = "single"
    label_columns: tuple[str, ...] = ("label",)
    separator: str = ""
    classes: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    mask_column: str = "mask"
    mask_classes: tuple[str, ...] = ()
    image_folders: tuple[str, ...] = ("image", "images")
    mask_folders: tuple[str, ...] = ("mask", "masks")
    notes_column: str = "notes"
    group_column: str = ""
    group_pattern: Annotated[str, Pattern(group=True)] = ""
    spacing_key: str = "px_mm"
    spacing_size_columns: tuple[str, str] = ("orig_width", "orig_height")
    unlabelled: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "lists":
            raise DataError("source 'lists' knows no labels: set source='index' or 'folders'")
        if self.kind == "segment" and self.source in ("tfds", "array_record"):
            raise DataError(
                f"source {self.source!r} does not bring masks: set source='index' or 'folders'"
            )
        if not self.label_columns:
            raise DataError("label_columns is empty: name the column of the label")
        if self.kind == "single" and (len(self.label_columns) > 1 or self.separator):
            raise DataError("several label_columns, or a separator, are for kind='multi'")
        if self.kind == "multi" and (len(self.label_columns) > 1) == bool(self.separator):
            raise DataError(
                "kind='multi' needs several label_columns, or one and the `separator` of its values"
            )
        parse_classes(self.classes)
        parse_mask_classes(self.mask_classes)


def parse_classes(entries: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the class number of each value: 'name' or 'name=value|value'.

    Raises:
        DataError: If a name or a value occurs twice, is empty, or stands for a missing value (NA).
    """
    names: list[str] = []
    number: dict[str, int] = {}
    for entry in entries:
        label, equals, values = entry.partition("=")
        name = name_of(label)
        for value in map(text_of, values.split("|") if equals else [name]):
            if not name or not value or name in names or value in number:
                raise DataError(f"classes: {entry!r} is empty, or names something a second time")
            number[value] = len(names)
        names.append(name)
    return tuple(names), number
