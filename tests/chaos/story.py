"""The course of a run: jobs are queued, things happen, all comes to an end, and the invariants are checked."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from datetime import timedelta

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
from tests.chaos.users import Users, left_behind, unfinished
from tests.chaos.watch import Watch

RECOVERY_SECONDS = 90
SETTLE_SECONDS = 300
START_SECONDS = 5
USERS_SHARE = 0.6
"""How much of the time users ask for something. Machines look after what they removed for 90 s more."""


class Story:
    """One run."""

    def __init__(self, room: Room, chance: random.Random) -> None:
        self._room = room
        self._chance = chance
        self._events = Events(room, chance)
        self._users = Users(chance)

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
        problems = [] if settled else ["not everything came to an end"]
        problems += [*self._users.problems, *left_behind(self._users.deleted)]
        this_machine.SWEEP_AFTER_SECONDS = 0  # type: ignore[misc]  # a quarter of an hour passes
        swept = services.worker.sweep()
        problems += [*broken(self._room.sources), *repositories_are_sound(), *self._judge(watch), *dead_is_red()]
        print(f"{time.monotonic() - began:.0f} s; {dict(self._events.done)}; users: {dict(self._users.done)}")
        print(f"jobs: {dict(outcomes())}; attempts: {sum(Job.objects.values_list('attempt', flat=True))}; {swept}")
        print(f"lost jobs due again, seconds since the last heartbeat: {sorted(map(round, watch.recovery_seconds))}")
        print(f"longest time in which a job was due and none was claimed: {max(watch.idle_seconds, default=0):.1f} s")
        most, of = watch.most_disk_bytes / 10**6, (conf.sandbox_max_bytes or 0) / 10**6
        print(f"disk: at most {most:.1f} of {of:.1f} MB taken or reserved; {len(watch.waited)} jobs waited for room")
        print(f"/health: {watch.looks} looks, {len(watch.red)} not 200")
        return problems

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
        while time.monotonic() < deadline:
            self._events.catch_up()
            try:
                cut_waits_short()
                if not self._events.pending and not unfinished() and not [*left_behind(self._users.deleted)]:
                    return True
            except Error:
                connection.close()  # the database was restarted
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
