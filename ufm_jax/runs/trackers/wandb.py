"""Weights & Biases: a run of a project on its server, or with WANDB_MODE=offline in a folder."""

import os
import secrets
from collections.abc import Mapping

from ufm_jax.runs.trackers.tracker import Tracked, read_id, write_id

WANDB = "wandb"
_SECONDS = 5
"""The longest wait for the server, at the beginning and at the end."""
_SAYS_NOTHING_ELSE = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "host": "",
    "program": "",
    "username": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_executable": "",
    "x_save_requirements": False,
}
"""Settings by which nothing of user, machine, code or command is collected."""


class WandB:
    """Sends rounds to W&B, whose own process keeps those that its server does not take yet.

    Offline each start of a run has a folder of its own, which gets all of its rounds.
    """

    def __init__(self, run: Tracked) -> None:
        """Begins the run, or goes on with it."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        name = read_id(run.workdir, WANDB) or secrets.token_hex(4)
        write_id(run.workdir, WANDB, name)
        settings = wandb.Settings(
            **_SAYS_NOTHING_ELSE,
            silent=True,
            force=True,  # Without a key it raises; otherwise it would ask for one.
            init_timeout=_SECONDS,
            login_timeout=_SECONDS,
            finish_timeout=_SECONDS,
            reinit="create_new",
        )
        self._run = wandb.init(
            project=run.project,
            name=run.title,
            id=name,
            resume="allow",
            dir=run.workdir,
            config=dict(run.settings),
            settings=settings,
        )
        self.next_round = self._run.step

    def write(self, round_number: int, scalars: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(dict(scalars), step=round_number, commit=True)
        self.next_round = round_number + 1

    def close(self, finished: bool) -> None:
        """See ``Tracker``."""
        self._run.finish(exit_code=0 if finished else 1)
