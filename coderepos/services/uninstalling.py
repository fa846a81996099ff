"""Uninstalling the app from a host: its files, tasks, permissions and content types."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from django.contrib.contenttypes.models import ContentType
from django.db import router

from coderepos import engine, queues
from coderepos.conf import conf
from coderepos.models import Node, StoredPack
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import remove_root
from coderepos.services.packs.storage import pack_storage

APP_LABELS: Final = ("coderepos", "coderepos_projects")


def remove_sandboxes() -> int:
    """Remove every sandbox root of this machine that one of our rows marked, and return the number of sandboxes.

    :raises SandboxRefused: one belongs to another installation or user; it was not touched.
    """
    known = [str(root_id) for root_id in Node.objects.values_list("root_id", flat=True)]
    here = Node.objects.filter(name=conf.node_id).first()
    paths = {engine.sandbox_root().path, *(Path(path) for path in (here.marked_roots if here else ()))}
    return sum(remove_root(SandboxRoot(path, conf.SANDBOX_GROUP), known) for path in sorted(paths))


def remove_stored_packs() -> int:
    """Remove all that rows name in the storage for packs, and return of how many repositories.

    :raises StorageUnavailable: it fails; what is left is still named by rows.
    :raises ConfigurationError: there is no such storage.
    """
    storage = pack_storage()
    if storage is None:
        return 0
    found = StoredPack.objects.order_by("repository_id").values_list("repository_id", flat=True).distinct()
    for repository_id in found:
        for name in storage.names(str(repository_id)):
            storage.delete(name)
    return len(found)


def other_nodes() -> list[str]:
    """Return the names of other machines that may have sandboxes."""
    return sorted(Node.objects.exclude(name=conf.node_id).values_list("name", flat=True))


def remove_traces() -> dict[str, int]:
    """Remove our rows from the tables of other apps, after our own were dropped; returns the number of each."""
    types = ContentType.objects.using(router.db_for_write(ContentType)).filter(app_label__in=APP_LABELS)
    _, counts = types.delete()
    ContentType.objects.clear_cache()
    return {**queues.current().forget(), **{label: count for label, count in counts.items() if count}}
