"""Check of the storage for packs: that it is there, and keeps what it is given under its name."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.files.storage import FileSystemStorage

from coderepos.checks.messages import error
from coderepos.checks.types import are_usable
from coderepos.conf import ConfigurationError, conf
from coderepos.services.packs.storage import named_storage

MOST_MEMORY_BYTES = 8 * 2**20


def check_storage(**_: Any) -> list[checks.CheckMessage]:
    """Check the storage that ``PACK_STORAGE`` names."""
    if not are_usable() or not conf.PACK_STORAGE:
        return []
    alias = conf.PACK_STORAGE
    try:
        storage = named_storage()
    except ConfigurationError as problem:
        return [error(53, str(problem), "Give an alias of STORAGES; see scaling-out.md.")]
    if isinstance(storage, FileSystemStorage):
        hint = "Take coderepos.storage.DirectoryStorage: this one writes in place, and gives taken names another one."
        return [error(54, f"STORAGES[{alias!r}] cannot keep packs.", hint)]
    if getattr(storage, "file_overwrite", True) is False:
        hint = "Set file_overwrite to True in its OPTIONS: a file that was half written is written again."
        return [error(54, f"STORAGES[{alias!r}] gives taken names another one.", hint)]
    # django-storages reads a whole file before its first byte, and keeps it in memory where this is 0.
    memory_bytes = getattr(storage, "max_memory_size", None)
    if memory_bytes is not None and not 0 < memory_bytes <= MOST_MEMORY_BYTES:
        hint = f"Set max_memory_size in its OPTIONS to {MOST_MEMORY_BYTES} or less."
        return [error(55, f"STORAGES[{alias!r}] reads whole packs into memory.", hint)]
    return []
