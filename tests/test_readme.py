"""The README's example runs as it stands, and its files exist."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_learns_the_weights(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    scope = {}
    exec(code, scope)
    np.testing.assert_allclose(scope["state"].server.params["w"], [1, -2, 3], atol=1e-3)
    assert "[" in capsys.readouterr().out


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", README))))
def test_linked_files_exist(target):
    assert (ROOT / target).exists()
