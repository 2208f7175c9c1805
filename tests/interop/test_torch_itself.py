"""Where PyTorch is installed: we read what it writes, and resample as it does."""

import numpy as np
import pytest

from ufm_jax.interop.resample import resample_position
from ufm_jax.interop.weights_file import read_weights

torch = pytest.importorskip("torch")

RNG = np.random.Generator(np.random.Philox(0))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "uint8"])
def test_we_load_what_torch_writes(zipped, dtype, tmp_path):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).t()
    tree = {"state_dict": {"w": tensor}, "optimizer": {"state": {0: tensor}}}
    torch.save(tree, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    weights = read_weights(tmp_path / "x.pth")
    assert weights.left_out == ("optimizer",)
    np.testing.assert_array_equal(weights.state["w"], tensor.float().numpy())


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (24, 20), (5, 30)])
def test_position_embeddings_are_interpolated_as_torch_does(antialias, size):
    embedding = RNG.standard_normal((1, 1 + 14 * 14, 8))
    grid = torch.tensor(embedding[:, 1:]).reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size, mode="bicubic", antialias=antialias)
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    resampled = resample_position(embedding, (14, 14), size, antialias)
    np.testing.assert_allclose(resampled[:, 1:], expected, atol=1e-6)
