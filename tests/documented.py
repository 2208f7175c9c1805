"""The commands that pages and docstrings show."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = [
    *PAGES,
    ROOT / "weights/README.md",
    *sorted((ROOT / "configs").rglob("*.py")),
    *sorted((ROOT / "ufm_jax").glob("*.py")),
    *sorted((ROOT / "tools").glob("*.py")),
]
"""Files that show commands."""


def commands_in(text: str) -> list[str]:
    """Arguments of Python, ``-m MODULE ...``, of each command of ours in a text, in its order.

    A command stands in a line of its own, which may begin with other commands and end in a
    backslash, or between backquotes; a module without arguments is a name.
    """
    text = re.sub(r"\\\n\s*", "", text)
    ours = r"(-m (?:ufm_jax|tools)\.\w+\s"
    line = rf"^ *(?:\S.* && )?(?:\S*/)?python {ours}.+)$"
    found = re.finditer(rf"{line}|`python\s+{ours}[^`]+)`", text, re.M)
    return [" ".join((match[1] or match[2]).split()) for match in found]


def shown_by(place: Path) -> list[str]:
    """The commands of a page, or of a module's docstring."""
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    return commands_in(text)


def clone_in(folder: Path) -> None:
    """Makes a folder look like a clone to commands that run in it."""
    for name in ("configs", "tools", "ufm_jax", "weights"):
        (folder / name).symlink_to(ROOT / name)
