"""Two finished runs on the same test images, from the predictions that they left."""

import json
from collections.abc import Mapping
from pathlib import Path

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.evaluation.comparison import compare_runs
from ufm_jax.evaluation.paired_tests import Comparison
from ufm_jax.evaluation.predictions_csv import read_table, table_path
from ufm_jax.runs.folder import EVALUATION_FILE

_SPLIT = "test"


def compare_folders(first: Path, second: Path) -> Mapping[str, Comparison]:
    """Paired differences of the test split, first minus second, by figure.

    Args:
        first: A run's folder; its positive class is the one looked for.
        second: Another run's.

    Raises:
        ConfigError: A run left no predictions, or they are of other images, classes or truths.
    """
    mine, other = (read_table(table_path(folder, _SPLIT)) for folder in (first, second))
    evaluation = json.loads((first / EVALUATION_FILE).read_text(encoding="utf-8"))
    positive = evaluation["splits"][_SPLIT].get("positive", "")
    return compare_runs(mine, other, EvaluationConfig(positive=positive)).figures
