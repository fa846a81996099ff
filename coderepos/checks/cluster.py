"""Checks of the values of ``Q_CLUSTER`` that decide whether jobs run twice, for ever or not at all."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks

from coderepos import queue
from coderepos.checks.messages import error, warning
from coderepos.checks.types import are_usable
from coderepos.conf import conf
from coderepos.models import alias
from coderepos.queue_timeouts import least_timeout_seconds, longest_hold_seconds


def check_queue(**_: Any) -> list[checks.CheckMessage]:
    """Check the cluster that works for this app: the host's own, or the one that ``QUEUE_CLUSTER`` names."""
    if not are_usable():
        return []
    if not queue.cluster_exists():
        hint = "Add it to Q_CLUSTER['ALT_CLUSTERS'], or leave QUEUE_CLUSTER out to use the host's own cluster."
        return [error(16, f"QUEUE_CLUSTER names {conf.QUEUE_CLUSTER!r}, which Q_CLUSTER does not know.", hint)]
    cluster = queue.settings_in_force()
    where = f"Q_CLUSTER['ALT_CLUSTERS'][{conf.QUEUE_CLUSTER!r}]" if conf.QUEUE_CLUSTER else "Q_CLUSTER"
    return [*_wrong_times(cluster, where), *_wrong_values(cluster, where), *_wrong_database(cluster)]


def _wrong_times(cluster: dict[str, Any], where: str) -> list[checks.CheckMessage]:
    timeout, retry = cluster["timeout"], cluster["retry"]
    messages: list[checks.CheckMessage] = []
    least = least_timeout_seconds(conf.GIT_CLONE_TIMEOUT)
    if not timeout or timeout < least:
        hint = f"Set it to at least {least:g}: the queue is only the outer net."
        messages.append(warning(30, f"{where}['timeout'] ends a clone before its own time limit does.", hint))
    if timeout and retry <= (longest := longest_hold_seconds(timeout, cluster["workers"])):
        hint = f"Set it above {longest:g}."
        messages.append(warning(31, f"{where}['retry'] hands a task to a second worker while it runs.", hint))
    return messages


def _wrong_values(cluster: dict[str, Any], where: str) -> list[checks.CheckMessage]:
    messages: list[checks.CheckMessage] = []
    if not cluster["ack_failures"]:
        messages.append(warning(32, f"{where}['ack_failures'] is off: failures repeat without end.", "Set it to True."))
    if cluster["bulk"] != 1 or cluster["queue_limit"] > cluster["workers"]:
        hint = "Set bulk and queue_limit to 1."
        messages.append(warning(33, f"{where} fetches tasks ahead, which starts their retry clock.", hint))
    if cluster["sync"]:
        messages.append(warning(34, "Q_CLUSTER['sync'] clones inside the web request.", "Set it to False."))
    if cluster["max_attempts"] != 1:
        hint = "Set it to 1: the app tries again by itself."
        messages.append(warning(36, f"{where}['max_attempts'] repeats tasks that were worked on.", hint))
    if cluster["catch_up"]:
        hint = "Set it to False: a schedule of every minute would run once for each minute of an outage."
        messages.append(warning(37, f"{where}['catch_up'] floods the queue after an outage.", hint))
    return messages


def _wrong_database(cluster: dict[str, Any]) -> list[checks.CheckMessage]:
    orm = cluster["orm"]
    if not orm or orm == alias():
        return []
    if orm not in settings.DATABASES:
        return [error(17, f"Q_CLUSTER['orm'] names {orm!r}, which is not in DATABASES.", f"Set it to {alias()!r}.")]
    hint = f"Set it to {alias()!r}: an ORM broker elsewhere closes connections that are in a transaction."
    return [warning(35, f"Q_CLUSTER['orm'] is {orm!r}, and the app's tables are in {alias()!r}.", hint)]
