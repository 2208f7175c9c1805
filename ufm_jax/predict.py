"""Prediction for a folder of images by a finished fine-tuning run.

    python -m ufm_jax.predict --run=runs/mine --images=FOLDER --out=OUT

Writes OUT/predictions.csv and, of a segmentation, OUT/masks and OUT/overlays. Files that are no
images are listed in the table with the reason. Any key of the run's configuration can be changed:
--config.evaluation.mirror=True. The exit code is 0 if at least one image was predicted, 1 if none,
and 2 if nothing could be begun.
"""

import sys
from pathlib import Path

from absl import flags

from ufm_jax.train.command import define_config_of_run, start
from ufm_jax.train.downstream.config import resolve_finetune
from ufm_jax.train.downstream.saved import load_config, load_model
from ufm_jax.train.runtime import configure_jax

_IMAGES = flags.DEFINE_string("images", None, "The folder of images.", required=True)
_OUT = flags.DEFINE_string("out", None, "An empty or new folder for what is made.", required=True)
_CLIENT = flags.DEFINE_string(
    "client", "", "Whose parameters to use, where clients have their own."
)
_SPACING = flags.DEFINE_float(
    "spacing", 0.0, "Millimetres per pixel of all images; 0: lengths in pixels."
)
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Draw the masks of a segmentation on the images.")


def main() -> int:
    """Checks the request, predicts, and says what was made."""
    config = resolve_finetune(flags.FLAGS.config)
    configure_jax(config.placement)
    # After the devices are set: it imports what may start a backend.
    from ufm_jax.train.downstream.folder_prediction import Request, predict_folder

    model = load_model(Path(flags.FLAGS.run))
    request = Request(
        Path(_IMAGES.value), Path(_OUT.value), _CLIENT.value, _SPACING.value, _OVERLAYS.value
    )
    summary = predict_folder(config, model, request)
    print(summary.note)
    total = summary.predicted + summary.failed
    others = "; the column error says why the others are not" * bool(summary.failed)
    print(f"{summary.predicted} of {total} files are predicted in {request.out}{others}")
    return 0 if summary.predicted else 1


if __name__ == "__main__":
    define_config_of_run(load_config, sys.argv)
    start(main)
