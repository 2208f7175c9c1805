"""The report's figures, worked out by hand on a small federation, and its command line."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData
from ufm_jax.errors import ConfigError, DataError

_FILE = Path(__file__).resolve().parents[2] / "tools" / "partition_report.py"
_SPEC = importlib.util.spec_from_file_location("partition_report", _FILE)
partition_report = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(partition_report)


def federation(labels: list[list[int]], label_names: tuple[str, ...] = ("x", "y")) -> FederatedData:
    flat = np.concatenate(labels).astype(np.int32)
    store = ArrayStore(
        np.zeros((len(flat), 4, 4, 1), np.uint8),
        np.zeros((len(flat), 2), np.int32),
        np.zeros((len(flat), 7), np.float32),
        flat,
    )
    names = tuple(f"c{k}" for k in range(len(labels)))
    offsets = np.cumsum([0, *map(len, labels)])
    return FederatedData(names, offsets, store, labels=flat, label_names=label_names)


def test_figures_are_those_worked_out_by_hand():
    """c0 has x only, c1 as many x as y, c2 no labels; together 4 x and 2 y.

    Skew of c0: (|1 - 2/3| + |0 - 1/3|) / 2 = 1/3; of c1: (1/6 + 1/6) / 2 = 1/6. Effective clients:
    shares 2/8, 4/8, 2/8 give 1 / (1/16 + 1/4 + 1/16) = 8/3.
    """
    report = partition_report.describe(federation([[0, 0], [0, 1, 0, 1], [-1, -1]]))
    c0, c1, c2 = report["clients"]
    assert (c0["label_entropy_bits"], c0["effective_labels"]) == (0.0, 1.0)
    assert (c1["label_entropy_bits"], c1["effective_labels"]) == (1.0, 2.0)
    assert (c2["label_entropy_bits"], c2["label_skew"], c2["unlabelled"]) == (None, None, 2)
    assert c0["label_skew"] == pytest.approx(1 / 3)
    assert c1["label_skew"] == pytest.approx(1 / 6)
    assert report["total"]["effective_clients"] == pytest.approx(8 / 3)
    assert report["total"]["largest_to_smallest"] == 2
    json.dumps(report)


@pytest.mark.parametrize("kinds", [0, 2, 30])
def test_plot_draws_any_number_of_labels(tmp_path, kinds):
    names = tuple(f"label{i}" for i in range(kinds))
    labels = [[i % kinds if kinds else -1 for i in range(40)], [-1, -1]]
    report = partition_report.describe(federation(labels, names))
    partition_report.plot(report, tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > max(kinds, 2)


def flags(root: Path) -> list[str]:
    changes = {"source": "folders", "root": root, "working_size": 8, "cache_dir": root / "../cache"}
    named = [text for name, value in changes.items() for text in (f"--{name}", str(value))]
    return [*named, "--no-detect_geometry", "--out", str(root / "../out")]


def test_command_line_prints_writes_and_plots(tmp_path, capsys):
    for index in range(5):
        path = tmp_path / "root" / f"hospital_{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 40 * index, np.uint8)).save(path)
    partition_report.main(flags(tmp_path / "root"))
    printed = capsys.readouterr().out
    assert "hospital_0" in printed
    assert "5 images in 5 groups at 2 clients" in printed
    report = json.loads((tmp_path / "out/partition.json").read_text())
    assert [client["images"] for client in report["clients"]] == [3, 2]
    assert (tmp_path / "out/partition.png").stat().st_size > 1000
    partition_report.main([*flags(tmp_path / "root"), "--partition", "iid", "--num_clients", "5"])
    report = json.loads((tmp_path / "out/partition.json").read_text())
    assert report["total"]["effective_clients"] == pytest.approx(5)


def test_unusable_data_ends_in_a_message_and_not_in_a_traceback(tmp_path):
    (tmp_path / "root/hospital").mkdir(parents=True)
    (tmp_path / "root/hospital/broken.png").write_text("no image")
    with pytest.raises(DataError, match=r"(?s:.*)broken\.png"):
        partition_report.main(flags(tmp_path / "root"))


def test_a_setting_out_of_range_ends_in_a_message_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"alpha=nan: use a number from"):
        partition_report.main([*flags(tmp_path / "root"), "--alpha", "nan"])
