"""The algorithm that CONTRIBUTING.md shows how to add, and its test."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "CONTRIBUTING.md"


def run_shown(names: dict[str, Any]) -> dict[str, Any]:
    """The names that the page's blocks of Python define, run one after another in ``names``."""
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, PAGE, "exec"), names)
    return names
