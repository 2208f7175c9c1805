"""Which values of a mask file mean which class."""

from collections.abc import Iterable
from dataclasses import dataclass

from ufm_jax.errors import DataError

BACKGROUND, IGNORE = 0, 255
_SPECIAL = {"background": BACKGROUND, "ignore": IGNORE}
AUTO = ("auto",)
BINARY_NAME = "foreground"

COLOUR = 1 << 24
"""Added to 0xRRGGBB, so that no colour is mistaken for a grey level or a class number."""

_MAX_CLASSES = 254


@dataclass(frozen=True)
class MaskClasses:
    """The classes of a segmentation.

    Attributes:
        names: Foreground classes; class number k + 1 is names[k], 0 is background.
        numbers: (value in the file, class number), 255 = ignore; empty = a binary mask.
    """

    names: tuple[str, ...] = (BINARY_NAME,)
    numbers: tuple[tuple[int, int], ...] = ()


def value_of_colour(red: int, green: int, blue: int) -> int:
    """The value of a colour: a grey's is its level, all others lie above 2^24."""
    return red if red == green == blue else COLOUR | red << 16 | green << 8 | blue


def value_name(value: int) -> str:
    """A value as the user writes it."""
    return f"#{value & 0xFFFFFF:06x}" if value & COLOUR else str(value)


def parse_mask_classes(entries: tuple[str, ...]) -> MaskClasses:
    """Reads the setting ``mask_classes``: 'value:name' or plain names; ('auto',) or none is binary.

    The names 'background' and 'ignore' mean 0 and 255; several values may have one name.

    Raises:
        DataError: If an entry is malformed, both kinds are mixed, or a value occurs twice.
    """
    if not entries or entries == AUTO:
        return MaskClasses()
    if not any(":" in entry for entry in entries):
        entries = tuple(f"{value}:{name}" for value, name in enumerate(entries, start=1))
    names: dict[str, int] = {}
    numbers: dict[int, int] = {}
    for entry in entries:
        text, colon, name = entry.partition(":")
        value = _parse_value(text)
        if not colon or not name or value is None or value in numbers:
            raise DataError(
                f"mask_classes: {entry!r} is not 'value:name' with a value (or #rrggbb) of its own"
            )
        if name in _SPECIAL:
            numbers[value] = _SPECIAL[name]
        else:
            numbers[value] = names.setdefault(name, 1 + len(names))
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise DataError(f"mask_classes names {len(names)} classes: use 1 to {_MAX_CLASSES}")
    numbers.setdefault(0, BACKGROUND)
    return MaskClasses(tuple(names), tuple(sorted(numbers.items())))


def classes_of_values(values: Iterable[int]) -> MaskClasses:
    """A class for each value but 0, in sorted order, named by the value.

    Raises:
        DataError: If there is no value, or more than 64, which are greys rather than classes.
    """
    found = sorted(set(values) - {0})
    if not 1 <= len(found) <= 64:
        raise DataError(
            f"mask_classes='auto': the masks hold {len(found)} values beside 0; a map of classes "
            "holds 1 to 64. Name the values, or leave mask_classes empty for a binary mask"
        )
    numbers = tuple((value, number) for number, value in enumerate(found, start=1))
    return MaskClasses(tuple(map(value_name, found)), ((0, BACKGROUND), *numbers))


def _parse_value(text: str) -> int | None:
    """The value of '12' or '#0c0c0c'; None if it is neither."""
    if text.isdecimal():
        return int(text) if int(text) < 2**16 else None
    try:
        rgb = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return value_of_colour(*rgb) if text.startswith("#") and len(rgb) == 3 else None
