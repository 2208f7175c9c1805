"""What the documentation names is there."""

import importlib
import re
import tomllib

import pytest
from flax.traverse_util import flatten_dict

from tests.documented import PAGES, ROOT
from ufm_jax.config.finetuning import finetune_config
from ufm_jax.config.pretraining import pretrain_config

FILES = {
    path.relative_to(ROOT).as_posix()
    for folder in ("ufm_jax", "tools", "configs", "tests")
    for path in (ROOT / folder).rglob("*")
} | {"ufm_jax/fed/algorithms/fedexp.py"}
"""Of the repository, and the file that CONTRIBUTING.md shows how to add."""
KEYS = {
    key
    for config in (pretrain_config(), finetune_config())
    for key in flatten_dict(config.to_dict(), sep=".")
}


def _is_there(name):
    """Whether a path, as far as it is written out, is the end of a file's or a folder's."""
    return any(file == name or file.endswith(f"/{name}") for file in FILES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    files = set(
        re.findall(r"(?<![\w*{/.-])((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|slurm|yaml))\b", text)
    )
    files -= set(re.findall(r"^```python\n# (\S+)$", text, re.M))  # The page shows them itself.
    modules = set(
        re.findall(r"-m ((?:ufm_jax|tools)(?:\.[a-z_]+)+)|\b(ufm_jax(?:\.[a-z_]+)+)", text)
    )
    modules = {f"{name.replace('.', '/')}" for pair in modules for name in pair if name}
    assert [name for name in sorted(files) if not _is_there(name)] == []
    missing = [m for m in modules if not (_is_there(f"{m}.py") or _is_there(m))]
    # The last part may name a function or a class of the module.
    assert [m for m in missing if not _is_there(f"{m.rpartition('/')[0]}.py")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)#h][^)#]*)", text))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_extras_and_imports_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    sections = "|".join({key.partition(".")[0] for key in KEYS})
    keys = set(re.findall(rf"`(?:--)?(?:config\.)?((?:{sections})\.[\w.]+)[=`]", text))
    # A section is the beginning of a key; what ends like a file is one.
    known = {key for key in keys if any(f"{k}.".startswith(f"{key}.") for k in KEYS)}
    files = (".json", ".onnx", ".safetensors", ".sha256")
    assert {key for key in keys - known if not key.endswith(files)} == set()
    extras = re.findall(r"'\.\[(\w+)\]'", text)
    assert set(extras) <= _project()["optional-dependencies"].keys()
    imports = re.findall(r"^ *from (ufm_jax\S+) import (\w+)$", text, re.M)
    assert all(hasattr(importlib.import_module(module), name) for module, name in imports)


def test_each_way_of_the_tour_passes_a_file_once():
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    ways = design.split("## A guided tour")[1].split("\n### ")[1:]
    assert len(ways) == 3
    for way in ways:
        passed = re.findall(r"`([\w/]+\.py)`", "".join(re.findall(r"^\| (`.*?) \|", way, re.M)))
        assert len(passed) > 9
        assert len(passed) == len(set(passed))
        assert all((ROOT / "ufm_jax" / file).is_file() for file in passed)


def test_the_citation_is_of_this_version():
    project = _project()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert {f"{key}: {project[key]}" for key in ("version", "license")} <= set(citation)
