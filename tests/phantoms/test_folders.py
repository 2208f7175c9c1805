"""Simulated folders are those that the commands take."""

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.phantoms.folders import write_phantoms


def pixels(folder):
    return {p.relative_to(folder): np.asarray(Image.open(p)) for p in folder.rglob("*.png")}


def test_folders_load_for_every_task_and_no_image_is_in_two(tmp_path):
    out = tmp_path / "made"
    counts = write_phantoms(out, sites=3, images=12, size=48)
    assert counts["institutions"] == counts["diagnosis"] == counts["segmentation"] == 18
    for kind, folder in (("single", "diagnosis"), ("segment", "segmentation")):
        data = load_labelled(
            LabelSettings(
                source="folders",
                root=str(out / folder),
                working_size=48,
                cache_dir=str(tmp_path / "cache"),
                split=SplitSettings(policy="fractions", required=("train",)),
                kind=kind,
            )
        )
        assert data.num_rows == 18
    index = DataSettings(
        source="index",
        root=str(out.parent),
        index=("made/index.csv",),
        client_columns=("site",),
        working_size=48,
        cache_dir=str(tmp_path / "cache"),
    )
    listed = load_federated(index)
    assert (listed.names, listed.sizes.tolist()) == (("site0", "site1", "site2"), [6, 6, 6])
    found = pixels(out)
    trained = {a.tobytes() for p, a in found.items() if p.parts[0] in ("institutions", "diagnosis")}
    others = {a.tobytes() for p, a in found.items() if p.parts[0] in ("elsewhere", "unlabelled")}
    assert len(trained) == 36
    assert not trained & others
    masks = [a for p, a in found.items() if "mask" in p.parts]
    assert set(np.unique(np.concatenate([mask.ravel() for mask in masks]))) == {0, 255}


def test_the_same_seed_gives_the_same_files_on_any_number_of_threads(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write_phantoms(one, sites=1, images=3, size=40, workers=1)
    write_phantoms(other, sites=1, images=3, size=40, workers=4)
    assert {p: a.tobytes() for p, a in pixels(one).items()} == {
        p: a.tobytes() for p, a in pixels(other).items()
    }
    with pytest.raises(DataError, match="exists: remove it"):
        write_phantoms(one)
