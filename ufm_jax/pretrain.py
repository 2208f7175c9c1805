"""Federated pretraining from a configuration file.

    python -m ufm_jax.pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Any key can be changed on the command line: --config.federation.rounds=50. Called again with the
same folder, it goes on where it stopped. On several hosts, the same command is started on each
with --config.cluster.distributed; see docs/clusters.md.
"""

import sys
from logging import getLogger
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ufm_jax.data.issues import DataError
from ufm_jax.train import cluster
from ufm_jax.train.config import resolve
from ufm_jax.train.rundir import has_checkpoint
from ufm_jax.train.runtime import CompileClock, configure_jax
from ufm_jax.train.schema import ConfigError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration.", lock_config=False)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_RESUME = flags.DEFINE_bool("resume", True, "Go on from the newest checkpoint in the folder.")


def main(argv: list[str]) -> int:
    """Checks the configuration, trains, and writes the report."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: options begin with --")
    try:
        config = resolve(_CONFIG.value)
        workdir = Path(_WORKDIR.value)
        if not _RESUME.value and has_checkpoint(workdir):
            raise ConfigError(f"--noresume, but {workdir} holds a run; choose another --workdir")
        configure_jax(config.placement)
        with cluster.membership(config.cluster, workdir):
            # After the devices are set: these import what may start a backend.
            from ufm_jax.train.finish import finish
            from ufm_jax.train.pretraining import pretrain

            clock = CompileClock()
            run = pretrain(config, workdir)
            ending = finish(config, workdir, run, clock.seconds)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if ending:
        print(ending)
    return 128 + run.stopped_by if run.stopped_by else 0


def parse(argv: list[str]) -> list[str]:
    """Parses flags; a mistyped one is an error of one line, as every wrong value is."""
    try:
        rest = flags.FLAGS(argv)
        path = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])
        if not path.is_file():
            raise flags.Error(f"--config={path}: no such file; configs/ holds some to start from")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = str(error).splitlines()
        # What a configuration file raises arrives with its traceback: its last line says it.
        text = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    return rest


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    logging.set_verbosity(logging.WARNING)
    getLogger("ufm_jax").setLevel("INFO")
    app.run(main, flags_parser=parse)
