"""The values of ``Q_CLUSTER`` that decide whether jobs run twice, for ever or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings

from coderepos.conf import conf
from coderepos.models import alias
from coderepos.queue_timeouts import least_timeout_seconds, longest_hold_seconds
from coderepos.queues.protocol import Problem


def problems(cluster: dict[str, Any], where: str) -> Iterator[Problem]:
    """Yield what is wrong with the values of a cluster, which stand ``where`` in the settings."""
    yield from _wrong_times(cluster, where)
    yield from _wrong_values(cluster, where)
    yield from _wrong_database(cluster)


def _wrong_times(cluster: dict[str, Any], where: str) -> Iterator[Problem]:
    timeout, retry = cluster["timeout"], cluster["retry"]
    least = least_timeout_seconds(conf.GIT_CLONE_TIMEOUT)
    if not timeout or timeout < least:
        hint = f"Set it to at least {least:g}: the queue is only the outer net."
        yield Problem(30, f"{where}['timeout'] ends a clone before its own time limit does.", hint)
    if timeout and retry <= (longest := longest_hold_seconds(timeout, cluster["workers"])):
        hint = f"Set it above {longest:g}."
        yield Problem(31, f"{where}['retry'] hands a task to a second worker while it runs.", hint)


def _wrong_values(cluster: dict[str, Any], where: str) -> Iterator[Problem]:
    if not cluster["ack_failures"]:
        yield Problem(32, f"{where}['ack_failures'] is off: failures repeat without end.", "Set it to True.")
    if cluster["bulk"] != 1 or cluster["queue_limit"] > cluster["workers"]:
        hint = "Set bulk and queue_limit to 1."
        yield Problem(33, f"{where} fetches tasks ahead, which starts their retry clock.", hint)
    if cluster["sync"]:
        yield Problem(34, "Q_CLUSTER['sync'] clones inside the web request.", "Set it to False.")
    if cluster["max_attempts"] != 1:
        hint = "Set it to 1: the app tries again by itself."
        yield Problem(36, f"{where}['max_attempts'] repeats tasks that were worked on.", hint)
    if cluster["catch_up"]:
        hint = "Set it to False: a schedule of every minute would run once for each minute of an outage."
        yield Problem(37, f"{where}['catch_up'] floods the queue after an outage.", hint)


def _wrong_database(cluster: dict[str, Any]) -> Iterator[Problem]:
    orm = cluster["orm"]
    if not orm or orm == alias():
        return
    if orm not in settings.DATABASES:
        message = f"Q_CLUSTER['orm'] names {orm!r}, which is not in DATABASES."
        yield Problem(17, message, f"Set it to {alias()!r}.", is_error=True)
        return
    hint = f"Set it to {alias()!r}: an ORM broker elsewhere closes connections that are in a transaction."
    yield Problem(35, f"Q_CLUSTER['orm'] is {orm!r}, and the app's tables are in {alias()!r}.", hint)
