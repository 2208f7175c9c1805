"""The few SVG shapes that the charts are made of."""

from ufm_jax.report.markup import Child, Markup, decimal, element


def chart(*children: Child, width: float, height: float, description: str) -> Markup:
    """A picture of ``width`` x ``height`` units that fills its container's width."""
    return element(
        "svg",
        *children,
        viewBox=view_box(0, 0, width, height),
        class_="chart",
        role="img",
        aria_label=description,
    )


def window(*children: Child, left: float, top: float, right: float, bottom: float) -> Markup:
    """Shows only what lies inside a rectangle."""
    width, height = right - left, bottom - top
    box = view_box(left, top, width, height)
    return element("svg", *children, x=left, y=top, width=width, height=height, viewBox=box)


def rect(left: float, top: float, width: float, height: float, class_: str | None = None) -> Markup:
    """A rectangle."""
    return element("rect", x=left, y=top, width=width, height=height, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str | None = None) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(content: str, x: float, y: float, class_: str) -> Markup:
    """A line of text; classes ``end`` and ``middle`` say which part of it is at ``x``."""
    return element("text", content, x=x, y=y, class_=class_)


def view_box(left: float, top: float, width: float, height: float) -> str:
    """The value of a ``viewBox`` attribute."""
    return " ".join(decimal(value) for value in (left, top, width, height))
