"""What takes a study to its sites: the app, and keys for a trial."""

import ast
import tomllib
from dataclasses import replace

import pytest

from tests.deployment.small_study import configured
from tools.deploying.app import write_app
from ufm_jax.config.pretraining import resolve
from ufm_jax.config.training import PlacementConfig
from ufm_jax.deployment.study import read_study
from ufm_jax.errors import ConfigError

SITES = ("A", "B", "C")


def test_an_app_holds_the_study_and_not_where_it_was_simulated(tmp_path):
    config = resolve(configured(tmp_path / "images", {"federation.rounds": 7}))
    write_app(tmp_path / "app", config, SITES)
    for file in (tmp_path / "app").iterdir():
        assert str(tmp_path) not in file.read_text()
    study = read_study(tmp_path / "app" / "study.json", config.data.root)
    data = replace(config.data, cache_dir="")
    assert study.config == replace(config, data=data, placement=PlacementConfig(lanes=1))
    assert study.sites == SITES
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    components = project["tool"]["flwr"]["app"]["components"]
    for module in ("server_app", "client_app"):
        assert f"{module}:app" in components.values()
        ast.parse((tmp_path / "app" / f"{module}.py").read_text())


@pytest.mark.parametrize(
    "sites",
    [(), ("A", "A"), ("A", ""), ("..", "B"), ("ca",), ("server",), ("x.pub", "x"), ("a b",)],
)
def test_sites_are_named_once_each(tmp_path, sites):
    config = resolve(configured(tmp_path, {}))
    with pytest.raises(ConfigError, match="name each site once"):
        write_app(tmp_path / "app", config, sites)
    assert not (tmp_path / "app").exists()


def test_what_names_places_of_the_simulation_is_not_told_to_sites(tmp_path):
    keys = {"tracking_store": f"sqlite:///{tmp_path}/x.db", "name": 'a "study"/x'}
    write_app(tmp_path / "app", resolve(configured(tmp_path, keys)), SITES)
    for file in (tmp_path / "app").iterdir():
        assert str(tmp_path) not in file.read_text()
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "a-study-x"


def test_certificates_are_signed_and_keys_are_private(tmp_path):
    x509 = pytest.importorskip("cryptography.x509", reason="certificates need ufm-jax[deploy]")
    from cryptography.hazmat.primitives import serialization as s

    from tools.deploying.certificates import write_certificates

    write_certificates(tmp_path / "keys", SITES, "server.example.org")
    read = {file.name: file.read_bytes() for file in (tmp_path / "keys").iterdir()}
    assert set(read) == {"ca.crt", "server.crt", "server.key", *SITES, *(f"{x}.pub" for x in SITES)}
    ca, server = (x509.load_pem_x509_certificate(read[f"{x}.crt"]) for x in ("ca", "server"))
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "server.example.org" in names.get_values_for_type(x509.DNSName)
    key = s.load_pem_private_key(read["server.key"], None)
    assert key.public_key() == server.public_key()
    public = {site: s.load_ssh_public_key(read[f"{site}.pub"]) for site in SITES}
    for site in SITES:
        assert s.load_ssh_private_key(read[site], None).public_key() == public[site]
        assert (tmp_path / "keys" / site).stat().st_mode & 0o077 == 0
    assert len({read[site] for site in SITES}) == len(SITES)
