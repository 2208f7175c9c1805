"""A Flower app of a few lines, whose work the installed ufm_jax does."""

import json
import re
from importlib import metadata
from pathlib import Path

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.deployment.study import STUDY_FILE, Study, write_study
from ufm_jax.files import private_folder, write_text

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = {name}
version = "1.0.0"
description = "A study of ufm_jax over real sites"
dependencies = ["ufm-jax[deploy]=={version}"]

[tool.flwr.app]
publisher = "ufm-jax"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
workdir = {workdir}  # On the server: checkpoints, metrics, the model.
timeout = 3600.0  # Seconds to wait for answers, after which those missing are asked again.
least = 0  # The fewest answers with which a round ends; 0 waits for all.
"""
_SERVER = '''\
"""The server of the study in study.json."""

from pathlib import Path

from ufm_jax.deployment.flower import server_app

app = server_app(Path(__file__).with_name("study.json"))
'''
_CLIENT = '''\
"""A site of the study; it goes by its own copy of study.json."""

from ufm_jax.deployment.flower import client_app

app = client_app()
'''


def write_app(out: Path, config: PretrainConfig, sites: tuple[str, ...]) -> None:
    """Writes the app of a study.

    Raises:
        ConfigError: If the configuration can be simulated and not deployed; says why.
    """
    study = Study(config, sites)
    private_folder(out)
    name = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-") or "study"
    quoted = {"name": json.dumps(name), "workdir": json.dumps(f"~/ufm_jax/{name}")}
    facts = quoted | {"version": metadata.version("ufm-jax")}
    write_text(out / "pyproject.toml", _PROJECT.format(**facts))
    write_text(out / "server_app.py", _SERVER)
    write_text(out / "client_app.py", _CLIENT)
    write_study(out / STUDY_FILE, study)
