"""Certificates and keys for a trial; a study at hospitals takes those of its own authority."""

import datetime
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ufm_jax.data.optional import needed_packages
from ufm_jax.deployment.study import check_sites
from ufm_jax.errors import ConfigError
from ufm_jax.files import private_folder, replacing

with needed_packages():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )
    from cryptography.x509.oid import NameOID

_DAYS = 90


def write_certificates(out: Path, sites: Sequence[str], host: str) -> None:
    """Writes ca.crt, server.crt and server.key for TLS, and SITE and SITE.pub for each site.

    Args:
        out: The folder.
        sites: Names of the sites, each of which gets a pair of keys to prove itself with.
        host: The server's name or address, beside localhost.
    """
    check_sites(sites)
    alternative = [_named(host), _named("localhost"), _named("127.0.0.1")]
    private_folder(out)
    authority, server = ec.generate_private_key(ec.SECP384R1()), _new_key()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ufm_jax trial")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    ca = _certificate(issuer, issuer, authority.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    names = x509.SubjectAlternativeName(alternative)
    served = _certificate(subject, issuer, server.public_key()).add_extension(names, critical=False)
    for name, certificate in (("ca", ca), ("server", served)):
        signed = certificate.sign(authority, hashes.SHA384())
        _write(out / f"{name}.crt", signed.public_bytes(Encoding.PEM))
    _write(out / "server.key", _private(server, PrivateFormat.TraditionalOpenSSL))
    for site in sites:
        key = _new_key()
        _write(out / site, _private(key, PrivateFormat.OpenSSH))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        _write(out / f"{site}.pub", public)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _named(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"--host={host}: no name or address of a host ({error})") from error


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _private(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _write(file: Path, content: bytes) -> None:
    with replacing(file) as partial:
        partial.write_bytes(content)
