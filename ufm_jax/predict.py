"""Prediction for a folder of images by a finished fine-tuning run, or by an export of one.

    python -m ufm_jax.predict --run=runs/mine --images=FOLDER --out=OUT
    python -m ufm_jax.predict --model=EXPORT --images=FOLDER --out=OUT

Writes OUT/predictions.csv and, of a segmentation, OUT/masks and OUT/overlays. DICOM, clips and
NIfTI have a row for each frame that --config.data.frames takes, and OUT/clips.csv sums them up.
Files that are no images are listed in the table with the reason. Any key of the run's configuration
can be changed: --config.evaluation.mirror=True. The exit code is 0 if at least one image was
predicted, and 1 if none was.
"""

from absl import flags

from ufm_jax.config.command import define_path
from ufm_jax.door import say
from ufm_jax.runs.command import start_on_run

_IMAGES = define_path("images", "The folder of images.", required=True)
_OUT = define_path("out", "An empty or new folder for what is made.", required=True)
_CLIENT = flags.DEFINE_string(
    "client", "", "Whose parameters to use, where clients have their own."
)
_SPACING = flags.DEFINE_float(
    "spacing", 0.0, "Millimetres per pixel of images whose files do not say it; 0: unknown."
)
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Draw the masks of a segmentation on the images.")
_CLIPS = flags.DEFINE_bool("clips", False, "Write the overlays of each clip as a clip too.")
_DICOM = flags.DEFINE_bool(
    "dicom",
    False,
    "Write masks of DICOM files as DICOM segmentations too; they name the patient as the files do.",
)
_FORM = flags.DEFINE_enum(
    "form", "weights", ["weights", "stablehlo", "onnx"], "Which file of --model predicts."
)


def main() -> int:
    """Checks the request, predicts, and says what was made."""
    # Within the door, which tells also what goes wrong on import.
    from ufm_jax.cluster.process import configure_jax
    from ufm_jax.config.finetuning import resolve_finetune
    from ufm_jax.runs.lock import held
    from ufm_jax.runs.portable import check_built_in, load_portable
    from ufm_jax.runs.trained_model import load_model

    config = resolve_finetune(flags.FLAGS.config)
    configure_jax(config.placement)
    # After the devices are set: it imports what may start a backend.
    from ufm_jax.prediction.folder.run import Request, predict_folder
    from ufm_jax.prediction.program import load_program

    exported, form = flags.FLAGS.model, _FORM.value
    model = load_portable(exported) if exported else load_model(flags.FLAGS.run)
    program = None
    if form != "weights":
        program = load_program(exported, form)
        check_built_in(exported, config)
    options = _CLIENT.value, _SPACING.value, _OVERLAYS.value, _CLIPS.value, _DICOM.value
    request = Request(_IMAGES.value, _OUT.value, *options)
    with held(request.out, "out"):
        summary = predict_folder(config, model, request, program)
    say(summary.note)
    total = summary.predicted + summary.failed
    others = "; the column error says why the others are not" * bool(summary.failed)
    say(f"{summary.predicted} of {total} files are predicted in {request.out}{others}")
    return 0 if summary.predicted else 1


if __name__ == "__main__":
    start_on_run(main, exported=True)
