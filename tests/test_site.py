"""The site is built from the pages as they are, without a warning."""

import subprocess
import sys

import pytest

from tests.documented import PAGES, ROOT

pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra: pip install '.[docs]'")


def test_the_site_is_built_without_a_warning_and_holds_every_page(tmp_path):
    build = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        place = tmp_path / page.relative_to(ROOT).with_suffix("")
        assert (place.parent if page.stem == "README" else place).joinpath("index.html").is_file()
    engine = (tmp_path / "docs/api/fed/index.html").read_text(encoding="utf-8")
    assert "ufm_jax.fed.federation.Federation" in engine
