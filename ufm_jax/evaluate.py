"""Evaluates a fine-tuned model: again, on other images, against another run or against readers.

    python -m ufm_jax.evaluate --run=runs/lesions --out=runs/lesions_elsewhere \
        --config.data.root=FOLDER --splits=all

The run's own configuration is the starting point, and any key of it can be changed; without a
change the run's own test split is evaluated. Thresholds are those that the run chose on its
validation split. A folder without a trained head is refused, and so are images that the model was
trained on.
"""

from absl import flags

from ufm_jax.config.command import define_path
from ufm_jax.door import say
from ufm_jax.errors import ConfigError
from ufm_jax.runs.command import start_on_run

_OUT = define_path("out", "Gets evaluation.json, tables and report.", required=True)
_SPLITS = flags.DEFINE_list("splits", ["test"], "What to evaluate on: train, val, test; or all.")
_AGAINST = define_path("against", "Folder of another run, evaluated on these images.")
_READERS = define_path("readers", "CSV of readers' calls: image, reader, call.")
_CLIENT = flags.DEFINE_string(
    "client", "", "Whose parameters to use on other images, where clients have their own."
)
_OCCLUSION = flags.DEFINE_integer(
    "occlusion", 0, "Diagnosis: examples of each kind to draw a map of importance for."
)


def main() -> int:
    """Loads the model and the data, evaluates, and writes the report."""
    # Within the door, which tells also what goes wrong on import.
    from ufm_jax.cluster.process import configure_jax
    from ufm_jax.config.finetuning import resolve_finetune
    from ufm_jax.runs.lock import held

    config = resolve_finetune(flags.FLAGS.config)
    if not any(_SPLITS.value):
        raise ConfigError("--splits is empty: name some of train, val and test, or all")
    configure_jax(config.placement)
    # After the devices are set: this imports what may start a backend.
    from ufm_jax.evaluation.evaluation_json import CompareWith
    from ufm_jax.finetuning.run import Request, evaluate

    request = Request(
        run=flags.FLAGS.run,
        out=_OUT.value,
        splits=tuple(_SPLITS.value),
        compare_with=CompareWith(_AGAINST.value, _READERS.value, _SPLITS.value[0]),
        occlusion=_OCCLUSION.value,
        client=_CLIENT.value,
    )
    with held(request.out, "out"):
        say(f"report: {evaluate(config, request)}")
    return 0


if __name__ == "__main__":
    start_on_run(main)
