"""The names of a stored pack in the storage, and its manifest: all but the pack that it takes to build the version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from coderepos.git.limits import Limits
from coderepos.git.wire import MESSAGE_BYTES, FetchOutcome
from coderepos.models import StoredPack

FORMAT: Final = 1
MOST_BYTES: Final = 2 * MESSAGE_BYTES
"""Longest manifest: it holds one outcome and a few figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What has to come out when the version is built again, and what the build child is told for that."""

    commit_id: str
    outcome: FetchOutcome

    def to_bytes(self, stored: StoredPack) -> bytes:
        """Return the manifest as JSON."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "repository": str(stored.repository_id),
            "version": stored.version,
            "commit": self.commit_id,
            "outcome": asdict(self.outcome),
            "pack": {"bytes": stored.pack_bytes, "sha256": stored.pack_sha256},
            "index": {"bytes": stored.index_bytes, "sha256": stored.index_sha256},
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, limits: Limits) -> Manifest:
        """Return the manifest that :meth:`to_bytes` wrote, its outcome checked as one of a fetch child.

        :raises ValueError: it is of another format, or not valid.
        """
        fields = json.loads(content)
        if not isinstance(fields, Mapping) or fields.get("format") != FORMAT:
            raise ValueError("format")
        return cls(commit_id=str(fields["commit"]), outcome=FetchOutcome.from_json(fields["outcome"], limits=limits))


def pack_name(stored: StoredPack) -> str:
    """Return the name of the pack."""
    return f"{stored.repository_id}/{stored.pack_sha256}-{stored.pk}.pack"


def index_name(stored: StoredPack) -> str:
    """Return the name of the index."""
    return f"{stored.repository_id}/{stored.index_sha256}-{stored.pk}.idx"


def manifest_name(stored: StoredPack) -> str:
    """Return the name of the manifest."""
    return f"{stored.repository_id}/v/{stored.version}-{stored.pk}.json"


def names(stored: StoredPack) -> tuple[str, ...]:
    """Return all names of a stored pack; none before its digests are known, since nothing was written before."""
    if not stored.manifest_sha256:
        return ()
    return pack_name(stored), index_name(stored), manifest_name(stored)
