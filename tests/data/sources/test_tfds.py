"""A set that someone else built with TFDS is read as it says, or the fault in it is named."""

import io
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.tfds import TfdsImage, read_records
from ufm_jax.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # TFDS and its dependencies warn at import


def _load(root, tmp_path, **settings):
    return load_federated(
        DataSettings(
            source="tfds",
            root=str(root),
            cache_dir=str(tmp_path / "cache"),
            working_size=24,
            detect_geometry=False,
            **settings,
        )
    )


def _png(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def hospital(tmp_path):
    """A set of someone else's: test images without a label, one image without a site."""
    import tensorflow_datasets as tfds

    class Hospital(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Two splits of four images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["cyst", "solid"]),
                "patient": tfds.features.Text(),
                "site": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0), "test": self._generate_examples(4)}

        def _generate_examples(self, first):
            for i in range(first, first + 4):
                label, site = (-1 if first else i % 2), ("" if i == 0 else "east")
                patient = f"p{i // 2}" + " " * (i % 2)
                example = {"image": _png(i), "label": label, "patient": patient, "site": site}
                yield str(i), example

    Hospital(data_dir=tmp_path / "sets", file_format="array_record").download_and_prepare()
    return tmp_path / "sets"


def test_a_label_that_is_not_known_is_none(hospital):
    labels = {"train": set(), "test": set()}
    for record in read_records(DataSettings(source="tfds", root=str(hospital))):
        labels[record.split].add(record.label)
    assert labels == {"train": {"cyst", "solid"}, "test": {None}}


def test_patients_stand_in_for_groups_however_they_are_written(hospital):
    records = read_records(DataSettings(source="tfds", root=str(hospital)))
    assert {r.group for r in records} == {f"hospital/p{i}" for i in range(4)}


def test_an_image_without_a_client_is_a_fault(hospital, tmp_path):
    columns = ("site", "patient")
    with pytest.raises(DataError, match="images without a client"):
        _load(hospital, tmp_path, client_columns=columns)
    data = _load(hospital, tmp_path, client_columns=columns, on_bad="skip")
    assert data.num_rows == 7
    assert data.issues.counts()["no_client"] == 1


def test_a_feature_that_is_not_there_is_named(hospital, tmp_path):
    with pytest.raises(DataError, match=r"lacks the features \['ward'\]"):
        _load(hospital, tmp_path, client_columns=("ward",))


def test_two_versions_of_a_set_are_refused(hospital, tmp_path):
    shutil.copytree(hospital / "hospital" / "1.0.0", hospital / "hospital" / "1.0.1")
    with pytest.raises(DataError, match=r"1\.0\.0 and .*1\.0\.1 are versions of one set"):
        _load(hospital, tmp_path)
    assert _load(hospital / "hospital" / "1.0.0", tmp_path).num_rows == 8


def test_a_missing_shard_is_named_after_the_set_was_read(hospital, tmp_path):
    assert _load(hospital, tmp_path).num_rows == 8
    (shard,) = hospital.rglob("hospital-train.array_record*")
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name} is missing"):
        _load(hospital, tmp_path)


def test_handles_load_from_threads_and_after_pickling(hospital):
    records = read_records(DataSettings(source="tfds", root=str(hospital)))
    images = [record.image for record in records] * 20
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(TfdsImage.load, images))
    assert set(loaded) == {_png(i) for i in range(8)}
    assert [image.load() for image in pickle.loads(pickle.dumps(images))] == loaded
