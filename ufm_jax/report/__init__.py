"""The report of a run: one self-contained HTML page of figures, tables and pictures.

The page needs no network and no script to be read; charts are inline SVG, images inline PNG.
"""

from ufm_jax.report.page import write_report
from ufm_jax.report.reconstruction_png import write_reconstruction_png
from ufm_jax.report.run_info import RunInfo

__all__ = ["RunInfo", "write_reconstruction_png", "write_report"]
