"""Signs a file with Content Credentials from a throw-away certificate, for the sample archive and for tests.

Nothing here is secret, and nothing is kept: keys are made, used once and forgotten. No time stamp authority is
contacted, so nothing leaves this machine.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ...transforms.media.containers.credentials import MIME_TYPES

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""URL of IPTC's vocabulary. A word such as `trainedAlgorithmicMedia` follows the last slash."""
ORGANISATION = "deephotlink sample signer (not trusted)"

# Reading back what was just signed must not use the network either. Thumbnails are off: c2pa makes none of video.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "core": {"allowed_network_hosts": [], "decode_identity_assertions": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """A certificate chain that C2PA accepts, and its key."""

    chain_pem: str
    """The leaf certificate, then the authority's."""
    key_pem: str
    """The leaf's key: PKCS#8, P-256."""
    anchor_pem: str
    """The authority's certificate alone. With this as a trust anchor, the signer is `Trusted`."""


def make_identity(organisation: str = ORGANISATION) -> SigningIdentity:
    """A new authority and a leaf certificate under it, both P-256 and valid for ten years.

    C2PA refuses self-signed leaves. It requires digitalSignature, an extended key usage from its list, and both key
    identifiers (C2PA specification, "X.509 Certificates").
    """
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    end = begin + datetime.timedelta(days=3650)

    def name(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, authority: bool) -> x509.CertificateBuilder:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Sample authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority,
                    key_cert_sign=authority,
                    crl_sign=authority,
                    decipher_only=False,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if authority:
            return builder
        return builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)

    authority_key = ec.generate_private_key(ec.SECP256R1())
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    authority = certificate("Sample authority", authority_key, True).sign(authority_key, hashes.SHA256())
    leaf = certificate("Sample signer", leaf_key, False).sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    anchor_pem = authority.public_bytes(pem).decode()
    return SigningIdentity(
        chain_pem=leaf.public_bytes(pem).decode() + anchor_pem,
        key_pem=leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
        anchor_pem=anchor_pem,
    )


def sign_sample(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    digital_source_type: str | None = "trainedAlgorithmicMedia",
    *,
    ingredients: Sequence[tuple[str | os.PathLike[str], str]] = (),
    claim_generator: str = "deephotlink sample",
    identity: SigningIdentity | None = None,
) -> SigningIdentity:
    """Writes `path_in` to `path_out` with Content Credentials that declare `digital_source_type` (a word from IPTC's
    vocabulary, or None for no declaration). Returns the identity that signed.

    The extension of each path gives its media type. `ingredients` are (path, relationship): `parentOf` (at most one,
    recorded as opened) or `componentOf` (recorded as placed). Their own credentials are included.

    Raises:
        ValueError: files with this extension cannot be signed.
    """
    mime = _mime_type(path_in)
    identity = identity or make_identity()
    # Every ingredient must be named by the action that added it, and the first action must be opened or created.
    labels = [f"ingredient-{number}" for number in range(len(ingredients))]
    by_action = {"c2pa.opened": "parentOf", "c2pa.created": "", "c2pa.placed": "componentOf"}
    steps: list[dict[str, Any]] = []
    for action, relationship in by_action.items():
        named = [label for label, (_, kind) in zip(labels, ingredients, strict=True) if kind == relationship]
        if named:
            steps.append({"action": action, "parameters": {"ingredientIds": named}})
        elif action == "c2pa.created" and not steps:
            steps.append({"action": action})
    if digital_source_type is not None:
        steps[0]["digitalSourceType"] = SOURCE_TYPES + digital_source_type
    manifest = {
        "claim_generator_info": [{"name": claim_generator, "version": "1"}],
        "title": os.path.basename(os.fspath(path_out)),
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": steps}}],
    }
    context = c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain_pem.encode(), identity.key_pem.encode(), None)
    with context, c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest), context) as builder:
        for label, (path, relationship) in zip(labels, ingredients, strict=True):
            title = os.path.basename(os.fspath(path))
            described = {"title": title, "relationship": relationship, "label": label}
            with open(path, "rb") as stream:
                builder.add_ingredient(described, _mime_type(path), stream)
        with open(path_in, "rb") as source, open(path_out, "w+b") as target:
            builder.sign(signer, mime, source, target)
    return identity


def _mime_type(path: str | os.PathLike[str]) -> str:
    extension = os.path.splitext(os.fspath(path))[1].lower()
    if extension not in MIME_TYPES:
        raise ValueError(f"expected one of {', '.join(MIME_TYPES)}: got {extension!r}")
    return MIME_TYPES[extension]
