"""Key management services (KMS) as key wrappers, one module per service; each needs the extra of its name.

A key is named by a URI: ``aws-kms://<arn>``, ``gcp-kms://projects/…/cryptoKeys/…``, ``azure-kv://<vault>/<key>`` or
``vault-transit://<mount>/<key>``. The kid of a wrapper is the URI of the key itself, never of an alias or a version.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from coderepos.crypto.envelope import KeyWrapper
from coderepos.exceptions import EncryptionUnavailable

_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"
NAMES: Final = {
    "aws-kms": re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(?:key|alias)/[A-Za-z0-9/_-]+"),
    "gcp-kms": re.compile(rf"projects/[^/\s]+/locations/{_SEGMENT}/keyRings/{_SEGMENT}/cryptoKeys/{_SEGMENT}"),
    "azure-kv": re.compile(rf"{_SEGMENT}(?::\d+)?/[A-Za-z0-9-]{{1,127}}"),
    "vault-transit": re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*/{_SEGMENT}"),
}
"""What the name of a key looks like, by the scheme of its URI."""

_MODULES: Final = {"aws-kms": "aws", "gcp-kms": "gcp", "azure-kv": "azure", "vault-transit": "vault"}
_CLIENTS: Final = {
    "aws-kms": "boto3",
    "gcp-kms": "google.cloud.kms_v1",
    "azure-kv": "azure.keyvault.keys",
    "vault-transit": "hvac",
}


def split_key_id(key_id: str) -> tuple[str, str]:
    """Return scheme and name of a key's URI; a bare AWS ARN is one too.

    :raises ValueError: it is the URI of no known service.
    """
    key_id = str(key_id)
    if key_id.startswith("arn:"):
        key_id = f"aws-kms://{key_id}"
    scheme, _, name = key_id.partition("://")
    if scheme not in NAMES or not NAMES[scheme].fullmatch(name):
        raise ValueError("A KMS key is aws-kms://…, gcp-kms://…, azure-kv://… or vault-transit://…, without version.")
    return scheme, name


def missing_extra(key_id: str) -> str | None:
    """Return the extra that has to be installed before the key can be used; ``None`` where it is."""
    scheme, _ = split_key_id(key_id)
    try:
        found = find_spec(_CLIENTS[scheme]) is not None
    except ModuleNotFoundError:
        found = False
    return None if found else _MODULES[scheme]


def open_key(key_id: str) -> KeyWrapper:
    """Return the wrapper of a key; the client library is imported here, and not before.

    :raises ValueError: it is the URI of no known service.
    :raises EncryptionUnavailable: the service is currently unavailable, or its extra is not installed.
    """
    scheme, name = split_key_id(key_id)
    if missing_extra(key_id):
        raise EncryptionUnavailable
    wrapper: KeyWrapper = import_module(f"{__name__}.{_MODULES[scheme]}").open_key(name)
    return wrapper
