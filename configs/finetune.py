"""Diagnosis or segmentation from images of one's own, a ViT-Ti/16 at 128 pixels.

Diagnosis, a folder a class:

    python -m ufm_jax.finetune --config=configs/finetune.py --workdir=runs/diagnosis \
        --config.data.root=FOLDER --config.start.weights=runs/mine

Segmentation, folders image/ and mask/ with equal file names, likewise:

    python -m ufm_jax.finetune --config=configs/finetune.py:segmentation --workdir=runs/outlines \
        --config.data.root=FOLDER --config.start.weights=runs/mine

`start.weights` is a run of pretraining with the same `model.size` and `model.channels`; leave it
out to start from random weights. The images are split by share: 65 % train, 15 % val, 20 % test,
a patient's images kept together where `data.group_pattern` finds the patient in the path, such as
'(patient_[0-9]+)'. Where FOLDER has train/, val/ and test/ these must say the split, and a draw by
share is an error: add `--config.data.split.policy=column`.
"""

from ml_collections import ConfigDict

from ufm_jax.config.finetuning import finetune_config


def get_config(task: str = "diagnosis") -> ConfigDict:
    if task not in ("diagnosis", "segmentation"):
        raise ValueError(f"task {task!r}: choose 'diagnosis' or 'segmentation'")
    config = finetune_config()
    config.name = task
    config.data.kind = "single"
    config.data.split.policy = "fractions"
    config.data.source = "folders"
    config.data.on_bad = "skip"
    config.data.working_size = 160
    config.model.size = "ti"
    config.model.image_size = 128
    config.model.channels = 1
    config.federation.rounds = 40
    config.federation.batch_size = 16
    config.client_optimizer.learning_rate = 1e-3
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 4
    config.checkpoint.every_rounds = 10
    if task == "segmentation":
        config.data.kind = "segment"
        # The decoder is new: small or few steps would not carry it far.
        config.client_optimizer.learning_rate = 2e-3
        config.federation.batch_size = 8
        # Tested on whole pictures, where nothing is cut off or enlarged.
        config.augment.moves.area = (0.8, 1.0)
        config.augment.moves.zoom = (0.8, 1.1)
    return config
