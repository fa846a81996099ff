"""The course of a run: jobs are queued, things happen, all comes to an end, and the invariants are checked."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from statistics import median

from django.db import Error, connection
from django.db.models.functions import Now

from coderepos import services
from coderepos.conf import conf
from coderepos.models import Job, Node
from coderepos.models.job_states import UNFINISHED, JobState
from coderepos.models.node import ALIVE_SECONDS
from coderepos.services.disk import this_machine
from coderepos.services.health.signs import read_signs
from coderepos.services.leases import RENEW_SECONDS
from tests.chaos.events import Events
from tests.chaos.installation import Room
from tests.chaos.invariants import broken, outcomes, repositories_are_sound
from tests.chaos.users import CALLS, Users, left_behind, unfinished
from tests.chaos.watch import Watch

RECOVERY_SECONDS = 90
SETTLE_SECONDS = 300
START_SECONDS = 5
SETTLED_SECONDS = 12
"""How long nothing has to be left to do: longer than the time between two rounds of upkeep."""

USERS_SHARE = 0.6
"""How much of the time users ask for something. Machines look after what they removed for 90 s more."""


class Story:
    """One run."""

    calls: Sequence[str] = CALLS
    """What users ask for."""

    def __init__(self, room: Room, chance: random.Random) -> None:
        self._room = room
        self._chance = chance
        self._events = Events(room, chance)
        self._users = Users(chance, self.calls)

    def tell(self, *, jobs: int, seconds: float) -> list[str]:
        """Carry everything out, and return a sentence for all that does not hold."""
        began = time.monotonic()
        self._room.queue_jobs(jobs, max_attempts=11)
        with ExitStack() as stack:
            for member in self._room.members:
                stack.enter_context(member)
            time.sleep(START_SECONDS)
            with Watch() as watch:
                self._let_things_happen(seconds)
                settled = self._settle()
        problems = [] if settled else [f"it did not come to an end: {one}" for one in islice(self._to_do(), 5)]
        problems += [*self._users.problems, *self._left_behind(), *self._broken(), *self._judge(watch), *dead_is_red()]
        print(f"{time.monotonic() - began:.0f} s; {dict(self._events.done)}; users: {dict(self._users.done)}")
        lost = sorted(watch.recovery_seconds) or [0]
        print(
            f"{len(watch.recovery_seconds)} lost jobs were due again, seconds since their last heartbeat: "
            f"median {median(lost):.0f}, at most {lost[-1]:.0f}"
        )
        print(f"longest time in which a job was due and none was claimed: {max(watch.idle_seconds, default=0):.1f} s")
        most, of = watch.most_disk_bytes / 10**6, (conf.sandbox_max_bytes or 0) / 10**6
        print(f"disk: at most {most:.1f} of {of:.1f} MB taken or reserved; {len(watch.waited)} jobs waited for room")
        print(f"/health: {watch.looks} looks, {len(watch.red)} not 200")
        print(*self._figures(), sep="\n")
        return problems

    def _left_behind(self) -> Iterator[str]:
        """Yield a sentence for everything on a disk that should not be there, before any sweep."""
        yield from left_behind(self._users.deleted)

    def _broken(self) -> Iterator[str]:
        """Yield a sentence for everything else that does not hold."""
        this_machine.SWEEP_AFTER_SECONDS = 0  # type: ignore[misc]  # a quarter of an hour passes
        services.worker.sweep()
        yield from broken(self._room.sources)
        yield from repositories_are_sound()

    def _to_do(self) -> Iterator[str]:
        """Yield a sentence for everything that is still under way."""
        if self._events.pending:
            yield "something has to be restarted or woken"
        yield from unfinished()
        yield from self._left_behind()

    def _figures(self) -> Iterator[str]:
        attempts = sum(Job.objects.values_list("attempt", flat=True))
        yield f"jobs: {dict(outcomes())}; attempts: {attempts}"

    def _let_things_happen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        users_go_at = time.monotonic() + USERS_SHARE * seconds
        latest = deadline + SETTLE_SECONDS
        while time.monotonic() < (deadline if self._events.had_their_turn else latest):
            time.sleep(self._chance.uniform(0.5, 3))
            self._events.happen()
            if time.monotonic() < users_go_at:
                self._users.ask()

    def _settle(self) -> bool:
        """Wait until every job and removal is final, and say whether that came about."""
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            try:
                self._events.catch_up()
                cut_waits_short()
                if any(self._to_do()):
                    quiet_since = time.monotonic()
            except Error:
                connection.close()  # the database was restarted
                quiet_since = time.monotonic()
            if time.monotonic() - quiet_since > SETTLED_SECONDS:
                return True
            time.sleep(0.5)
        return False

    def _judge(self, watch: Watch) -> list[str]:
        # A worker dies up to this long after its last heartbeat.
        late = [value for value in watch.recovery_seconds if value > RECOVERY_SECONDS + RENEW_SECONDS]
        problems = [f"a lost job was due again only after {value:.0f} s" for value in late]
        if (idle := max(watch.idle_seconds, default=0)) > RECOVERY_SECONDS:
            problems.append(f"for {idle:.0f} s a job was due and none was claimed")
        if conf.sandbox_max_bytes is not None and watch.most_disk_bytes > conf.sandbox_max_bytes:
            problems.append(f"the disk had {watch.most_disk_bytes} bytes of {conf.sandbox_max_bytes} taken or reserved")
        for at, answer in watch.red:
            if not any(start - 1 <= at <= end + 5 for start, end in self._events.outages):
                problems.append(f"/health was red while a cluster was healthy: {answer}")
        return problems


def cut_waits_short() -> None:
    """Let the next attempts, whose time is not what is measured, come soon."""
    jobs = Job.objects.filter(state__in=UNFINISHED)
    jobs.filter(state=JobState.QUEUED, next_attempt_at__gt=Now() + timedelta(seconds=2)).update(
        next_attempt_at=Now() + timedelta(seconds=1)
    )


def dead_is_red() -> list[str]:
    """Some time after the last worker was killed, /health says so."""
    Node.objects.update(last_seen=Now() - timedelta(seconds=ALIVE_SECONDS + 1))
    Job.objects.update(heartbeat_at=Now() - timedelta(seconds=ALIVE_SECONDS + 1))
    return [] if read_signs().fault else ["/health is green while no worker lives"]
