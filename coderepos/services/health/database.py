"""What the database says: that it answers, and what jobs, leases and machines are like. One connection for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from django.db import connections, models
from django.db.models import ExpressionWrapper, F
from django.db.models.functions import Now

from coderepos.conf import conf
from coderepos.models import Job, Node, alias, tables_exist
from coderepos.models.disk import waiting_for_disk
from coderepos.models.job_states import OVERDUE_SECONDS
from coderepos.models.node import ALIVE_SECONDS, NodeState
from coderepos.services.health.finding import Finding, failing, ok, span, warning
from coderepos.services.health.signs import Signs, read_signs

_GB: Final = 10**9

LAPSED_SECONDS: Final = 60
"""A lease that expired this long ago should have been noticed by six rounds of upkeep."""

LONG_WAIT_SECONDS: Final = 900
"""A job that waited this long for room on a disk does not get it by itself."""

FORGOTTEN_AFTER: Final = timedelta(days=1)
"""A machine that was silent for longer is taken to be gone on purpose."""


def database_findings() -> Iterator[Finding]:
    """Yield ``database``, ``transactions``, ``jobs``, ``leases``, ``upkeep``, ``room``, and a ``node`` a machine."""
    if not tables_exist():
        yield failing("database", "the tables are not there: run migrate")
        return
    yield ok("database", f"{connections[alias()].vendor} answers")
    yield _transactions()
    signs = read_signs()
    yield _jobs(signs)
    yield _leases()
    yield _upkeep(signs)
    yield _room()
    yield from _nodes()


def _transactions() -> Finding:
    connection = connections[alias()]
    if connection.vendor != "postgresql":
        return ok("transactions", "one writer at a time")
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        level: str = cursor.fetchone()[0]
    if level != "read committed":
        return warning("transactions", f"isolation level {level}; the app is tested with read committed", level=level)
    return ok("transactions", f"isolation level {level}", level=level)


def _jobs(signs: Signs) -> Finding:
    oldest = Job.objects.oldest_due().annotate(age=_age("due_at")).values_list("age", flat=True).first()
    seconds = round(oldest.total_seconds()) if oldest else 0
    values = {"oldest_due_seconds": seconds}
    if signs.stand_still:
        return failing("jobs", f"one has been due for {span(seconds)}, and no worker is working on any job", **values)
    if not oldest:
        return ok("jobs", "none is due", **values)
    backlog = " behind others that run" if seconds > OVERDUE_SECONDS else ""
    return ok("jobs", f"the oldest that is due has waited for {span(seconds)}{backlog}", **values)


def _leases() -> Finding:
    lapsed = Job.objects.lease_expired(for_seconds=LAPSED_SECONDS).count()
    if lapsed:
        text = f"{lapsed} jobs lost their worker over {LAPSED_SECONDS} s ago, and nobody has queued them again"
        return failing("leases", text, lapsed=lapsed)
    return ok("leases", "every running job has its worker", lapsed=0)


def _upkeep(signs: Signs) -> Finding:
    newest = Node.objects.order_by("-last_seen").exclude(last_seen=None)
    age = newest.annotate(age=_age("last_seen")).values_list("age", flat=True).first()
    seconds = None if age is None else round(age.total_seconds())
    text = "no machine has ever finished a round" if seconds is None else f"the last round ended {span(seconds)} ago"
    if signs.node_alive:
        return ok("upkeep", text, age_seconds=seconds)
    if signs.job_reported:
        return warning("upkeep", f"{text}, though a job runs", age_seconds=seconds)
    return failing("upkeep", f"{text}: no worker is alive", age_seconds=seconds)


def _room() -> Finding:
    waiting = waiting_for_disk()
    since = waiting.annotate(age=_age("waits_for_disk_since")).values_list("age", flat=True).first()
    if since is None:
        return ok("room", "no job waits for room on a disk", waiting=0)
    seconds, count = round(since.total_seconds()), waiting.count()
    text = f"{count} jobs wait for room on a disk, the first of them for {span(seconds)}"
    level = warning if seconds > LONG_WAIT_SECONDS else ok
    return level("room", text, waiting=count, longest_seconds=seconds)


def _nodes() -> Iterator[Finding]:
    seen = Node.objects.filter(last_seen__gte=Now() - FORGOTTEN_AFTER)
    for node in seen.annotate(age=_age("last_seen")).values():
        yield _node(node)


def _node(node: Mapping[str, Any]) -> Finding:
    seconds, level = round(node["age"].total_seconds()), node["isolation_level"]
    values = {
        "node": node["name"],
        "state": node["state"],
        "age_seconds": seconds,
        "isolation_level": level,
        **_disk_values(node),
    }
    text = f"{node['name']}: seen {span(seconds)} ago, isolation level {level}{_disk_text(node)}"
    if seconds > ALIVE_SECONDS:
        return warning("node", f"{text}; its workers are gone, and what only it has can't be read", **values)
    if level < conf.SANDBOX_MIN_LEVEL:
        return failing("node", f"{text}, below SANDBOX_MIN_LEVEL: nothing is cloned there", **values)
    if node["state"] == NodeState.DRAINING:
        return warning("node", f"{text}; it is drained: its workers claim nothing", **values)
    return ok("node", text, **values)


def _disk_values(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: node[name] for name in ("disk_used_bytes", "disk_budget_bytes", "disk_free_bytes")}


def _disk_text(node: Mapping[str, Any]) -> str:
    if node["disk_free_bytes"] is None:
        return ""
    budget = "" if node["disk_budget_bytes"] is None else f" of {node['disk_budget_bytes'] / _GB:.1f}"
    return f", {node['disk_used_bytes'] / _GB:.1f}{budget} GB used, {node['disk_free_bytes'] / _GB:.1f} free"


def _age(column: str) -> ExpressionWrapper[Any]:
    return ExpressionWrapper(Now() - F(column), output_field=models.DurationField())
