"""A restart of PostgreSQL under running clones costs no attempt: ``python -m tests.chaos.restart``."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from django.db import connection

from tests.chaos.installation import BYTES_PER_SECOND, Room, installation
from tests.support.cluster import wait_until

SLOW = BYTES_PER_SECOND // 12
CLONES = 4
"""As many as the two clusters have workers."""


def main() -> int:
    """Restart the server under clones that go on and under clones that fail at that moment; check the invariants."""
    with installation("postgresql", retries=3) as room, room.members[0], room.members[1]:
        problems = [*clones_go_on(room), *failures_are_written(room)]
        if problems:
            print((room.folder / "cluster-a.log").read_text()[-6_000:], *problems, sep="\n")
        return int(bool(problems))


def clones_go_on(room: Room) -> list[str]:
    """Restart the server as an upgrade and as a crash would."""
    jobs = running_clones(room)
    for pause_seconds, number in ((0.6, signal.SIGINT), (3, signal.SIGQUIT)):
        restart(room, pause_seconds, number)
    room.git_server.bytes_per_second = None
    wait_until(lambda: not jobs.filter(state__in=["QUEUED", "RUNNING"]).exists(), seconds=60, what="the end")
    outcomes = list(jobs.values_list("state", "attempt"))
    return [] if outcomes == [("SUCCEEDED", 1)] * CLONES else [f"clones under a restart: {outcomes}"]


def failures_are_written(room: Room) -> list[str]:
    """Let clones fail while there is no database to write that to."""
    jobs = running_clones(room)
    connection.close()
    away = threading.Thread(target=restart, args=(room, 5, signal.SIGINT))
    away.start()
    threading.Event().wait(1)
    room.git_server.restart(pause_seconds=0.1)
    away.join()
    wait_until(lambda: not jobs.filter(state="RUNNING").exists(), seconds=20, what="the failures in the rows")
    outcomes = set(jobs.values_list("state", "attempt", "error_code"))
    expected = {("QUEUED", 1, code) for code in ("remote_unreachable", "remote_protocol_error")}
    return [] if outcomes <= expected else [f"failures under a restart: {outcomes}"]


def running_clones(room: Room) -> Any:
    """Queue as many clones as there are workers, and wait until all of them receive."""
    from coderepos.models import Job

    room.git_server.bytes_per_second = SLOW
    earlier = list(Job.objects.values_list("pk", flat=True))
    room.queue_jobs(CLONES, max_attempts=4)
    jobs = Job.objects.exclude(pk__in=earlier)
    wait_until(
        lambda: jobs.filter(state="RUNNING", bytes_received__gt=0).count() == CLONES, seconds=60, what="running clones"
    )
    return jobs


def restart(room: Room, pause_seconds: float, number: signal.Signals) -> None:
    """Restart the server."""
    assert room.server
    connection.close()
    room.server.restart(pause_seconds=pause_seconds, number=number)


if __name__ == "__main__":
    sys.exit(main())
