"""What this machine needs to work: the queue's broker, the key, the sandbox root and its disk."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coderepos import engine, queues
from coderepos.conf import conf
from coderepos.crypto.keyring import keyring
from coderepos.crypto.message import Context
from coderepos.exceptions import CodeReposError
from coderepos.models import Node
from coderepos.sandbox.space import space_of
from coderepos.services.health.finding import Finding, failing, ok, span, warning

_GB: Final = 10**9
_TRIAL: Final = Context(table="health", field="trial", row_id="0", project_id="0")
_TRIAL_TEXT: Final = "sealed and opened to try the key"


def queue_findings() -> Iterator[Finding]:
    """Yield one finding for each of ``queue`` and ``schedules``."""
    facts = queues.current().facts()
    if facts.reachable is False:
        yield failing("queue", "the broker does not answer")
        return
    waiting = "an unknown number of" if facts.waiting is None else str(facts.waiting)
    broker = "the broker answers" if facts.reachable else "the queue does not tell whether its broker answers"
    yield ok("queue", f"{broker}, {waiting} tasks wait", waiting=facts.waiting)
    yield _schedules(facts.missing_periodic)


def _schedules(missing: tuple[str, ...] | None) -> Finding:
    if missing is None:
        node = Node.objects.filter(name=conf.node_id).first()
        age_seconds = math.inf if node is None else node.upkeep_age_seconds()
        last = "has begun no round here" if age_seconds == math.inf else f"began here {span(round(age_seconds))} ago"
        return ok("schedules", f"this queue keeps none: the upkeep of workers, or of coderepos_maintain, {last}")
    if missing:
        return failing("schedules", f"{' and '.join(missing)} are not there: run migrate", missing=list(missing))
    return ok("schedules", "all are there", missing=[])


def key_findings() -> Iterator[Finding]:
    """Yield one finding, ``key``: whether the primary key seals, and what it sealed opens."""
    try:
        keys = keyring()
        sealed, kid = keys.seal(_TRIAL_TEXT, _TRIAL)
        opened = keys.open(sealed, kid, _TRIAL)
    except CodeReposError as error:
        yield failing("key", f"{error.code}: {error.message}")
        return
    if opened == _TRIAL_TEXT:
        yield ok("key", f"{kid} seals and opens", kid=kid)
    else:
        yield failing("key", f"{kid} opens something else than it sealed", kid=kid)


def root_findings() -> Iterator[Finding]:
    """Yield one finding, ``sandbox_root``: whether this machine's root is the one that it marked."""
    root = engine.sandbox_root()
    node = Node.objects.filter(name=conf.node_id).first()
    if node is None or str(root.path) not in node.marked_roots:
        yield ok("sandbox_root", f"{conf.node_id} has not cloned anything into {root.path}")
        return
    try:
        marker = root.read_marker()
    except CodeReposError as error:
        yield failing("sandbox_root", f"{root.path}: {error.code}: {error.message}")
        return
    if marker is None:
        yield failing("sandbox_root", f"{root.path} has lost its marker: its disk is not mounted, or it was emptied")
    elif marker != str(node.root_id):
        yield failing("sandbox_root", f"{root.path} belongs to another installation")
    else:
        yield ok("sandbox_root", f"{root.path} is this machine's")


def disk_findings() -> Iterator[Finding]:
    """Yield one finding, ``disk``: what is free where this machine clones to, measured now."""
    path = Path(conf.SANDBOX_BASE_PATH)
    if not os.path.lexists(path):
        yield ok("disk", f"there is no {path} on this machine")
        return
    try:
        space = space_of(path)
    except CodeReposError as error:
        yield failing("disk", f"{path}: {error.code}: {error.message}")
        return
    floor_bytes = space.floor_bytes(conf.sandbox_free_bytes)
    values = {"free_bytes": space.free_bytes, "floor_bytes": floor_bytes, "free_inodes": space.free_inodes}
    text = f"{space.free_bytes / _GB:.1f} GB are free at {path}"
    if space.free_inodes == 0 or space.free_bytes < floor_bytes / 10:
        yield failing("disk", f"{text}: nothing can be written soon", **values)
    elif space.lacks_inodes or space.free_bytes < floor_bytes:
        lack = "few inodes" if space.lacks_inodes else f"less than the {floor_bytes / _GB:.1f} that stay free"
        yield warning("disk", f"{text}, {lack}: clones wait", **values)
    else:
        yield ok("disk", text, **values)
