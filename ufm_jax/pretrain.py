"""Federated pretraining from a configuration file.

    python -m ufm_jax.pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Any key can be changed on the command line: --config.federation.rounds=50. Called again with the
same folder, it goes on where it stopped. On several hosts, the same command is started on each
with --config.cluster.distributed; see docs/clusters.md.
"""

from absl import flags
from ml_collections import config_flags

from ufm_jax.config.command import define_path, start
from ufm_jax.door import say
from ufm_jax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration.", lock_config=False)
_WORKDIR = define_path("workdir", "The run's folder.", required=True)
_RESUME = flags.DEFINE_bool("resume", True, "Go on from the newest checkpoint in the folder.")


def main() -> int:
    """Checks the configuration, trains, and writes the report."""
    # Within the door, which tells also what goes wrong on import.
    from ufm_jax.cluster import hosts
    from ufm_jax.cluster.process import CompileClock, configure_jax
    from ufm_jax.config.pretraining import resolve
    from ufm_jax.runs.folder import check_outside, check_resume
    from ufm_jax.runs.lock import held
    from ufm_jax.runs.tracking import check_trackers

    if "start" in _CONFIG.value:
        raise ConfigError("--config is one of fine-tuning: use it with python -m ufm_jax.finetune")
    config, workdir = resolve(_CONFIG.value), _WORKDIR.value
    check_outside(workdir, config.data)
    check_resume(workdir, _RESUME.value)
    check_trackers(config, workdir)
    configure_jax(config.placement)
    with hosts.membership(config.cluster, workdir), held(workdir, "workdir"):
        # After the devices are set: these import what may start a backend.
        from ufm_jax.train.pretraining import pretrain
        from ufm_jax.train.report import report_end

        clock = CompileClock()
        run = pretrain(config, workdir)
        ending = report_end(config, workdir, run, clock.seconds)
    for line in ending:
        say(line)
    return 128 + run.stopped_by if run.stopped_by else 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    start(main)
