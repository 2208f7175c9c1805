"""Maps of what a diagnosis rests on."""

import jax.numpy as jnp
import numpy as np

from ufm_jax.prediction.occlusion import occlusion_map
from ufm_jax.prediction.predictor import Predictor


def test_only_what_the_model_reads_matters():
    """A model that reads the grey of one corner: the map is there, and nowhere else."""

    def reads_a_corner(params, batch):
        del params
        bright = batch["image"][:, 30:40, 50:60, 0].astype(jnp.float32).mean((1, 2)) / 255
        return jnp.stack([1 - bright, bright], axis=-1)

    image = np.zeros((64, 64, 1), np.uint8)
    image[30:40, 50:60] = 255
    found = occlusion_map(Predictor(reads_a_corner, 16), {}, image, np.array([48, 64], np.int32), 1)
    assert found.shape == (48, 64)
    assert found[32:38, 52:58].min() > 0.3
    far = np.hypot(*(np.mgrid[:48, :64] - np.array([35, 55])[:, None, None])) > 26
    np.testing.assert_allclose(found[far], 0, atol=1e-6)
    against = occlusion_map(Predictor(reads_a_corner, 7), {}, image, np.array([48, 64]), 0)
    np.testing.assert_allclose(against, -found, atol=1e-6)
