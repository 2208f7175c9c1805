"""Settings of labelled images from those of images."""

from ufm_jax.data.labels.settings import LabelSettings, SplitSettings


def label_settings(images, split=None, **changes):
    """The images that ``images`` says, labelled and split as the others say."""
    return LabelSettings(**vars(images), split=split or SplitSettings(), **changes)
