"""A run whose configuration, clients and machine have names that no tracker may tell anybody."""

import os
import re
import socket
from pathlib import Path

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.settings import PretrainingSettings

USER = "dr_quark"
CLIENTS = ("ward 7, mueller anna", "turin")


def as_user(monkeypatch):
    """Has libraries take the user for ``USER``."""
    for variable in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(variable, USER)


def private_config(place: Path, name: str, store: str = "") -> PretrainConfig:
    data = PretrainingSettings(
        source="folders", root=str(place / "patients"), cache_dir=str(place / "decoded")
    )
    return PretrainConfig(data=data, tracking=(name,), tracking_store=store)


def assert_tells_nobody(text: str, place: Path):
    """``text`` names no path, user, host or client."""
    secrets = (str(place), os.getcwd(), "patients", USER, "mueller")
    assert [secret for secret in secrets if secret in text] == []
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert "config.federation.rounds" in text
