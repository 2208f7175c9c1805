"""The lock file is of what pyproject.toml asks for, and containers copy what there is."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.documented import ROOT

LOCK = (ROOT / "uv.lock").read_text(encoding="utf-8")


def test_the_lock_is_of_the_requirements_as_they_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = project["dependencies"], *project["optional-dependencies"].values()
    asked = [Requirement(text) for names in lists for text in names]
    (ours,) = (p for p in tomllib.loads(LOCK)["package"] if p["name"] == project["name"])
    locked = [
        Requirement(f"{entry['name']}{entry.get('specifier', '')}")
        for entry in ours["metadata"]["requires-dist"]
    ]
    wanted, found = (
        {(canonicalize_name(r.name), str(r.specifier)) for r in requirements}
        for requirements in (asked, locked)
    )
    assert found == wanted, "run: uv lock"


def test_the_lock_names_the_public_index_alone():
    assert set(re.findall(r"\w+://([^/\"]+)", LOCK)) == {"pypi.org", "files.pythonhosted.org"}


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("Containerfile", r"^COPY (.*) \S+$"), ("apptainer.def", r"^    (\S+) /opt/ufm_jax/\S+$")],
)
def test_a_container_gets_what_commands_need(file, pattern):
    text = (ROOT / "containers" / file).read_text(encoding="utf-8")
    copied = {name for names in re.findall(pattern, text, re.M) for name in names.split()}
    assert {"pyproject.toml", "uv.lock", "ufm_jax", "tools", "configs", "weights"} <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
