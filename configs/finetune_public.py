"""Five tasks on public sets laid out with an index.csv each, a ViT-Ti/16 at 128 pixels.

    python -m ufm_jax.finetune --config=configs/finetune_public.py:TASK --workdir=runs/TASK \
        --config.data.root=FOLDER --config.start.weights=runs/held_out

TASK is busi_diagnosis, busi_segmentation, pocus_diagnosis, gb_diagnosis or hc18_circumference.
FOLDER holds the folders busi_breast, pocus_lung, gb_biliary_atresia and hc18_fetal_head. Splits are
by patient group: fold 0 tests, fold 1 chooses; gb_diagnosis is tested on other hospitals. None of
the images that test is among those of configs/pretrain_sites.py:held_out.

Expect 2 to 10 minutes each on 2 cores; docs/downstream.md has the figures.
"""

from ml_collections import ConfigDict

from ufm_jax.config.finetuning import finetune_config

_TASKS = {
    "busi_diagnosis": ("busi_breast", 40),
    "busi_segmentation": ("busi_breast", 40),
    "pocus_diagnosis": ("pocus_lung", 40),
    "gb_diagnosis": ("gb_biliary_atresia", 8),
    "hc18_circumference": ("hc18_fetal_head", 12),
}
"""Task -> folder of the set, and epochs."""


def get_config(task: str) -> ConfigDict:
    if task not in _TASKS:
        raise ValueError(f"task {task!r}: choose one of {', '.join(_TASKS)}")
    folder, epochs = _TASKS[task]
    config = finetune_config()
    config.name = task
    config.data.source = "index"
    config.data.index = (f"{folder}/index.csv",)
    config.data.working_size = 160
    config.data.split.policy = "fold"
    config.model.size = "ti"
    config.model.image_size = 128
    config.model.channels = 1
    config.federation.rounds = epochs
    config.federation.batch_size = 16
    config.client_optimizer.learning_rate = 5e-4
    config.client_optimizer.scale_by_batch = False
    config.schedule.warmup_rounds = 3
    config.checkpoint.every_rounds = 10
    if task.endswith("_diagnosis"):
        config.loss.class_weights = 1.0
    else:
        config.data.kind = "segment"
        # The decoder is new: small or few steps would not carry it far.
        config.client_optimizer.learning_rate = 2e-3
        config.federation.batch_size = 8
        # Tested on whole pictures, where nothing is cut off or enlarged.
        config.augment.moves.area = (0.8, 1.0)
        config.augment.moves.zoom = (0.8, 1.1)
    if task == "gb_diagnosis":
        config.data.split.policy = "column"
        config.evaluation.positive = "BA"
    if task == "hc18_circumference":
        config.data.unlabelled = "skip"
        config.data.mask_classes = ("255:head",)
        config.evaluation.measurement = "head_circumference"
        config.evaluation.outline = "pixels"
    return config
