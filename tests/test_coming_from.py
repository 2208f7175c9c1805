"""The examples of docs/coming_from.md end with the same parameters, ours and the peers'.

A peer runs in an environment of its own, whose Python a variable names: FROM_FEDJAX=PYTHON, and
likewise the others.
"""

import json
import os
import re
import runpy
import subprocess

import numpy as np
import pytest

from tests.documented import ROOT

PAGE = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
PEERS = [name for name in FILES if name.startswith("from_")]


@pytest.fixture
def folder(tmp_path):
    """A folder with every file that the page shows."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def by_hand(folder):
    """FedAvg of logistic regression: the weights, then the bias."""
    problem = runpy.run_path(str(folder / "problem.py"))
    clients = [(np.c_[x, np.ones(len(x))].astype(float), y) for x, y in problem["data"]()]
    params = np.zeros(4)
    for _ in range(problem["ROUNDS"]):
        trained = [params.copy() for _ in clients]
        for own, (x, y) in zip(trained, clients, strict=True):
            for _ in range(problem["LOCAL_STEPS"]):
                own -= problem["RATE"] * (1 / (1 + np.exp(-x @ own)) - y) @ x / len(y)
        params = np.mean(trained, axis=0)
    return params


def test_ours_is_fedavg(folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(folder)
    runpy.run_path(str(folder / "ours.py"))
    np.testing.assert_allclose(json.loads(capsys.readouterr().out), by_hand(folder), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", PEERS)
def test_the_peers_example_is_too(folder, file):
    variable = file.removesuffix(".py").upper()
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python of an environment with this peer")
    done = subprocess.run(
        [os.environ[variable], file], cwd=folder, capture_output=True, text=True, check=True
    )
    answer = next(line for line in done.stdout.splitlines() if line.startswith("["))
    np.testing.assert_allclose(json.loads(answer), by_hand(folder), atol=1e-5)
