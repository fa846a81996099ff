"""The course of a run: jobs are queued, things happen, all comes to an end, and it is judged."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import transaction
from django.db.models.functions import Now
from django.test import RequestFactory

from coderepos import queue, services
from coderepos.crypto.secret import Secret
from coderepos.git.url import parse_git_url
from coderepos.models import CodeRepository, Job, Node, get_project_model
from coderepos.models.address import network_policy
from coderepos.models.job import UNFINISHED, JobState
from coderepos.services import upkeep
from config.health import health
from tests.chaos.events import Events
from tests.chaos.installation import Member
from tests.chaos.invariants import broken, outcomes, repositories_are_sound
from tests.chaos.watch import Watch
from tests.git.http_backend import GitServer
from tests.postgres import TemporaryServer

TAKEOVER_SECONDS = 90
SETTLE_SECONDS = 300
TOKEN = "t" * 30


class Story:
    """One run."""

    def __init__(
        self,
        chance: random.Random,
        members: list[Member],
        git_server: GitServer,
        server: TemporaryServer | None,
        sqlite_file: Path | None,
    ) -> None:
        self._chance = chance
        self._members = members
        self._git_server = git_server
        self._events = Events(chance, members, git_server, server, str(sqlite_file) if sqlite_file else None)

    def tell(self, sources: dict[str, Path], *, jobs: int, seconds: float, stack: ExitStack) -> list[str]:
        """Carry everything out, and return a sentence for all that does not hold."""
        began = time.monotonic()
        call_command("migrate", verbosity=0)
        self._queue_jobs(sorted(sources), jobs)
        for member in self._members:
            stack.enter_context(member)
        time.sleep(5)
        with Watch() as watch:
            self._let_things_happen(seconds)
            settled = self._settle()
        for member in self._members:
            member.cluster.kill()
        problems = [] if settled else ["not everything came to an end"]
        upkeep.SWEEP_AFTER_SECONDS = 0  # type: ignore[misc]  # a quarter of an hour passes
        swept = services.sweep()
        problems += [*broken(sources), *repositories_are_sound(), *self._judge(watch), *dead_is_red()]
        takeovers = sorted(round(value, 1) for value in watch.takeover_seconds)
        print(f"{time.monotonic() - began:.0f} s; {dict(self._events.done)}")
        print(f"jobs: {dict(outcomes())}; attempts: {sum(Job.objects.values_list('attempt', flat=True))}; {swept}")
        print(f"takeovers, seconds since the last sign of life: {takeovers}")
        print(f"longest time in which a job was due and none was claimed: {max(watch.idle_seconds, default=0):.1f} s")
        print(f"/health: {watch.looks} looks, {len(watch.red)} not 200")
        return problems

    def _queue_jobs(self, names: list[str], count: int) -> None:
        project: Any = None
        for number in range(count):
            if number % len(names) == 0:
                project = get_project_model()._default_manager.create(name=f"project {number}")
            git_url = self._git_server.url(names[number % len(names)])
            with transaction.atomic():
                repository = CodeRepository(
                    project=project, git_url=git_url, token_ciphertext=Secret(TOKEN), username="git"
                )
                repository.url_key = parse_git_url(git_url, network_policy()).key
                repository.save(force_insert=True)
                queue.ring(Job.objects.create(repository=repository, max_attempts=11))

    def _let_things_happen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(self._chance.uniform(0.5, 3))
            self._events.happen()

    def _settle(self) -> bool:
        """Wait until every job is final; the waits between attempts, which are not what is measured, are cut short."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self._events.catch_up()
            jobs = Job.objects.filter(state__in=UNFINISHED)
            if not self._events.pending and not jobs.exists():
                return True
            jobs.filter(state=JobState.QUEUED, next_attempt_at__gt=Now() + timedelta(seconds=2)).update(
                next_attempt_at=Now() + timedelta(seconds=1)
            )
            time.sleep(0.5)
        return False

    def _judge(self, watch: Watch) -> list[str]:
        late = [value for value in watch.takeover_seconds if value > TAKEOVER_SECONDS]
        problems = [f"a job was taken over only after {value:.0f} s" for value in late]
        if (idle := max(watch.idle_seconds, default=0)) > TAKEOVER_SECONDS:
            problems.append(f"for {idle:.0f} s a job was due and none was claimed")
        for at, answer in watch.red:
            if not any(start - 1 <= at <= end + 5 for start, end in self._events.outages):
                problems.append(f"/health was red while a cluster was healthy: {answer}")
        return problems


def dead_is_red() -> list[str]:
    """A minute after the last worker was killed, /health says so."""
    Node.objects.update(last_seen=Now() - timedelta(seconds=61))
    Job.objects.update(heartbeat_at=Now() - timedelta(seconds=61))
    answer = health(RequestFactory().get("/health"))
    return [] if answer.status_code == 503 else ["/health is green while no worker lives"]
