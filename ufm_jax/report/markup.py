"""HTML and SVG elements as strings, escaped unless they were built here.

Client names, file names and config values are data: a plain ``str`` given as a child or an
attribute is always escaped. Only ``Markup``, which ``element`` returns, passes unchanged.
"""

import html
import math
from collections.abc import Iterable

_VOID = frozenset({"br", "img", "meta"})


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


Child = str | int


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Builds ``<tag attributes>children</tag>``.

    Args:
        tag: The element's name.
        *children: ``Markup`` is inserted as it is, everything else is escaped.
        **attributes: Underscores become hyphens and a trailing one is dropped (``class_``);
            ``None`` leaves the attribute out; floats are written with two decimals at most.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Concatenates children, escaping all that are not ``Markup``."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child)) for child in children
        )
    )


def definitions(pairs: Iterable[tuple[str, Child]], class_: str, of_each: str = "") -> Markup:
    """A list of names and their values.

    Args:
        pairs: Names and values.
        class_: Class of the list.
        of_each: Class of each pair.
    """
    rows = [
        element("div", element("dt", name), element("dd", value), class_=of_each or None)
        for name, value in pairs
    ]
    return element("dl", *rows, class_=class_)


def _attribute(value: str | float) -> str:
    if isinstance(value, float):
        return decimal(value)
    return html.escape(str(value))


def decimal(value: float) -> str:
    """Writes a coordinate with at most two decimals and no trailing zeros."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a coordinate: leave out points that are not finite")
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
