"""Reads Content Credentials (C2PA) in the sandboxed child: what a file declares about itself, and whether it is valid.

The reader is c2pa-python, which parses hostile bytes in Rust. Everything it says is cut down to small, printable JSON.
It never uses the network. `remote_manifest_fetch` alone does not ensure that: identity assertions (CAWG) resolve
`did:web` names over DNS and https, so these stay undecoded and no host is allowed at all. Files without credentials
take about 2 ms, signed ones about 20 ms plus one hash over their bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...failures import printable
from .fed_file import open_file

if TYPE_CHECKING:
    import c2pa

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {
        "allowed_network_hosts": [],
        "allow_redirects": False,
        "decode_identity_assertions": False,
        "max_decompressed_manifest_size_in_mb": 16,
    },
}
"""No network access, and no manifest that unpacks without end. A test runs the reader and watches for sockets."""

MIME_TYPES: Mapping[str, str] = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".3gp": "video/mp4",
    ".mov": "video/quicktime",
    ".m4a": "audio/mp4",
    ".avi": "video/avi",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    # We do not read stills, but most public test files are stills.
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
}
"""Containers that can hold a manifest. Matroska, WebM, Ogg, MPEG-TS and others have no place for one."""

MAX_TEXT = 120
MAX_LIST = 32
MAX_MANIFESTS = 64
MAX_NODES = 20_000
"""Most JSON values looked at in one manifest when searching for declared source types."""


def read_credentials(path: str, suffix: str, trust_anchors: str | None = None) -> dict[str, Any] | None:
    """The Content Credentials of the file at `path`; None if it has none or its container cannot hold any.

    suffix: the kind of the file (`.mp4`, …).
    trust_anchors: PEM certificates. A signer counts as trusted if its chain ends in one of them.

    Otherwise returns plain JSON::

        state                   "Trusted" | "Valid" | "Invalid"; "Remote": only a link to credentials, not followed;
                                "Unreadable": the credentials cannot be parsed, or the container is broken
        signer_trusted          whether the signer's chain ends in a trust anchor; anyone can sign for themselves
        failures, successes     C2PA status codes about the active manifest, each once, sorted
        ingredient_failures     the same about the ingredients, as they were when they were added
        active                  claim_generator, title, issuer, signed_at (ISO 8601 | None), digital_source_types,
                                actions [{action, software_agent, digital_source_type}], ingredients (how many)
        parent_source_types     declared by the manifests that this one is an edit of (`parentOf`, to the root)
        component_source_types  declared by everything else that went into it
        all_digital_source_types  the union of these three
        manifests               how many

    Source types are the last word of their IRI (`trainedAlgorithmicMedia`). Raises only OSError, if the path cannot be
    opened: bad content is an answer, not an error.
    """
    mime = MIME_TYPES.get("." + suffix.lower().lstrip("."))
    if mime is None:
        return None
    import c2pa

    context = _context(os.getpid(), trust_anchors)
    with open_file(path) as stream:
        try:
            reader = c2pa.Reader.try_create(mime, stream, None, context)
            if reader is None:
                return None
            with reader:
                return summarise(json.loads(reader.json()))
        except c2pa.C2paError as error:
            return _failed(str(error))
        # Catch these too: JSON nested deeper than Python can parse, values of a type that no manifest has.
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError) as error:
            return _failed(f"{type(error).__name__}: {error}")


def prepare() -> None:
    """Loads the library and its settings in advance, for a process that confines itself afterwards."""
    _context(os.getpid(), None)


@lru_cache(maxsize=2)
def _context(pid: int, trust_anchors: str | None) -> c2pa.Context:
    """One context for each process: after a fork, the parent's is not valid in the child. Takes about 10 ms."""
    import c2pa

    settings: dict[str, Any] = dict(SETTINGS)
    if trust_anchors is not None:
        settings["trust"] = {"trust_anchors": trust_anchors}
    return c2pa.Context(c2pa.Settings.from_dict(settings))


def _failed(message: str) -> dict[str, Any]:
    remote = message.startswith("Remote")
    # Leave the link itself out: it is the file's own text and may name the person it was made for.
    failure = "the credentials are stored elsewhere and were not fetched" if remote else _text(message)
    return {
        "state": "Remote" if remote else "Unreadable",
        "signer_trusted": False,
        "failures": [failure],
        "successes": [],
        "ingredient_failures": [],
        "active": None,
        "parent_source_types": [],
        "component_source_types": [],
        "all_digital_source_types": [],
        "manifests": 0,
    }


def summarise(store: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest store as c2pa-rs reports it, cut down to what `read_credentials` promises. Raises TypeError,
    AttributeError or KeyError if it is not a manifest store."""
    manifests: Mapping[str, Any] = store["manifests"]
    active_label = store["active_manifest"]
    active = manifests[active_label]
    results = store.get("validation_results") or {}
    about_active = results.get("activeManifest") or {}
    failures = _codes(about_active.get("failure"))
    own = source_types(active)
    parents, components = _ingredient_source_types(manifests, active_label)
    state = store.get("validation_state")
    if state not in ("Trusted", "Valid", "Invalid"):
        state = "Unreadable"
    signature = active.get("signature_info") or {}
    signed_at = signature.get("time")
    return {
        "state": state,
        "signer_trusted": state == "Trusted",
        "failures": failures,
        "successes": _codes(about_active.get("success")),
        "ingredient_failures": sorted(
            {
                code
                for delta in (results.get("ingredientDeltas") or [])[:MAX_MANIFESTS]
                for code in _codes((delta.get("validationDeltas") or {}).get("failure"))
            }
        )[:MAX_LIST],
        "active": {
            "claim_generator": _generator(active),
            "title": _text(active.get("title")),
            "issuer": _text(signature.get("issuer")),
            "signed_at": _text(signed_at) if signed_at else None,
            "digital_source_types": own,
            "actions": _actions(active),
            "ingredients": len(active.get("ingredients") or []),
        },
        "parent_source_types": parents,
        "component_source_types": components,
        "all_digital_source_types": sorted({*own, *parents, *components})[:MAX_LIST],
        "manifests": len(manifests),
    }


def source_types(manifest: Mapping[str, Any]) -> list[str]:
    """Every digital source type that the assertions of one manifest declare, in actions or in embedded metadata."""
    found: set[str] = set()
    for key, value in _pairs([a.get("data") for a in manifest.get("assertions") or [] if isinstance(a, dict)]):
        # `digitalSourceType` in actions, `Iptc4xmpExt:DigitalSourceType` in metadata assertions.
        if key.lower().endswith("digitalsourcetype") and isinstance(value, str):
            found.add(_last_word(value))
    return sorted(found - {""})[:MAX_LIST]


def _pairs(root: Any) -> Iterator[tuple[str, Any]]:
    waiting = [root]
    for _ in range(MAX_NODES):
        if not waiting:
            return
        node = waiting.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                yield key, value
                if isinstance(value, dict | list):
                    waiting.append(value)
        elif isinstance(node, list):
            waiting.extend(value for value in node if isinstance(value, dict | list))


def _ingredient_source_types(manifests: Mapping[str, Any], active_label: str) -> tuple[list[str], list[str]]:
    """(parents, components): the source types of what the file was made *from*, and of what was put *into* it. Parents
    describe the whole file; components describe only a part of it."""
    parents: set[str] = set()
    components: set[str] = set()
    seen = {active_label}
    waiting = [(active_label, True)]
    while waiting and len(seen) <= MAX_MANIFESTS:
        label, whole = waiting.pop()
        for ingredient in (manifests[label].get("ingredients") or [])[:MAX_MANIFESTS]:
            below = ingredient.get("active_manifest")
            if below in seen or below not in manifests:
                continue
            seen.add(below)
            parent = whole and ingredient.get("relationship") == "parentOf"
            (parents if parent else components).update(source_types(manifests[below]))
            waiting.append((below, parent))
    return sorted(parents)[:MAX_LIST], sorted(components)[:MAX_LIST]


def _actions(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for assertion in manifest.get("assertions") or []:
        # `c2pa.actions`, `c2pa.actions.v2`, `c2pa.actions__1`
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in (assertion.get("data") or {}).get("actions") or []:
                found.append(
                    {
                        "action": _text(action.get("action")),
                        "software_agent": _agent(action.get("softwareAgent")),
                        "digital_source_type": _last_word(str(action.get("digitalSourceType") or "")),
                    }
                )
                if len(found) == MAX_LIST:
                    return found
    return found


def _generator(manifest: Mapping[str, Any]) -> str:
    names = [_agent(info) for info in (manifest.get("claim_generator_info") or [])[:4]]
    return _text(", ".join(name for name in names if name) or manifest.get("claim_generator"))


def _agent(agent: Any) -> str:
    if isinstance(agent, dict):
        return _text(" ".join(str(agent[key]) for key in ("name", "version") if agent.get(key)))
    return _text(agent)


def _codes(statuses: Any) -> list[str]:
    return sorted({_text(status.get("code")) for status in (statuses or [])[:10_000]})[:MAX_LIST]


def _last_word(iri: str) -> str:
    return _text(iri.rstrip("/").rsplit("/", 1)[-1])


def _text(value: Any) -> str:
    return "" if value is None else printable(str(value), MAX_TEXT)
