"""Fine-tuning for diagnosis or segmentation, from a configuration file.

    python -m ufm_jax.finetune --config=configs/finetune.py --workdir=runs/lesions \
        --config.data.root=FOLDER --config.start.weights=runs/pretrained

The model is chosen on the validation split and evaluated on the test split; evaluation.json,
predictions_test.csv and report.html in the folder say how well it does. Any key can be changed on
the command line. Called again with the same folder, it goes on where it stopped.
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
    """Checks the configuration, trains, evaluates, and writes the report."""
    # Within the door, which tells also what goes wrong on import.
    from ufm_jax.cluster.process import configure_jax
    from ufm_jax.config.finetuning import resolve_finetune
    from ufm_jax.runs.folder import check_outside, check_resume
    from ufm_jax.runs.lock import held
    from ufm_jax.runs.tracking import check_trackers

    if "start" not in _CONFIG.value:
        raise ConfigError("--config is one of pretraining: use it with python -m ufm_jax.pretrain")
    config, workdir = resolve_finetune(_CONFIG.value), _WORKDIR.value
    check_outside(workdir, config.data)
    check_resume(workdir, _RESUME.value)
    check_trackers(config, workdir)
    configure_jax(config.placement)
    with held(workdir, "workdir"):
        # After the devices are set: this imports what may start a backend.
        from ufm_jax.finetuning.run import finetune
        from ufm_jax.train.run import stopped_line

        ended = finetune(config, workdir)
    if ended.report is None:
        say(stopped_line(ended.rounds_done))
        return 128 + ended.stopped_by
    say(f"report: {ended.report}")
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    start(main)
