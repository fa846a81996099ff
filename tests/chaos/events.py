"""What happens to the clusters and the servers: each event is one that a machine room knows."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from django.db import connection

from tests.chaos.installation import RESTART_SECONDS, Member, Room, send

FREEZE_SECONDS = 70
"""Longer than a lease."""

OPERATOR_SECONDS = 20
"""How soon an operator restarts a cluster that stands still."""

HARMFUL_SHARE = 0.6
MOST_RESTARTS = 2
"""Of each server, until every harmful event has happened once more."""


class Events:
    """Chooses and carries out events; at least one cluster is left unharmed, as with one fault at a time."""

    def __init__(self, room: Room, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.outages: list[tuple[float, float]] = []
        """When the database was away, from and to."""
        self._chance = chance
        self._members = room.members
        self._git_server = room.git_server
        self._server = room.server
        self._sqlite_file = room.sqlite_file
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._restarting: set[Member] = set()
        self._deals = 0
        self._harmful: list[Callable[[Member], bool]] = []
        self._restarts: Counter[str] = Counter()

    def happen(self) -> None:
        """Carry out one event by chance; each of the harmful ones has its turn."""
        self.catch_up()
        if not self._harmful:
            self._deal()
        healthy = [member for member in self._members if not member.is_impaired]
        if not healthy:
            return
        member = self._chance.choice(healthy)
        if self._may_harm(healthy) and self._harmful and self._chance.random() < HARMFUL_SHARE:
            event = self._harmful.pop(0)
            if not self._carry_out(event, member):
                self._harmful.insert(0, event)
            return
        events = [self._kill_child, self._kill_worker, self._kill_child, self._kill_worker, self._restart_git_server]
        if self._server and len(healthy) == len(self._members):
            # A cluster that is just starting would end.
            events.append(self._restart_database)
        self._carry_out(self._chance.choice(events), member)

    def _may_harm(self, healthy: list[Member]) -> bool:
        return len(healthy) == len(self._members)

    def _deal(self) -> None:
        """Let every harmful event come again, the longest one last, and some restarts."""
        short = [self._freeze_worker, self._kill_cluster, self._kill_sentinel, self._kill_helper]
        self._harmful = [*self._chance.sample(short, len(short)), self._freeze_cluster]
        self._restarts.clear()
        self._deals += 1

    def _carry_out(self, event: Callable[[Member], bool], member: Member) -> bool:
        if event(member):
            self.done[event.__name__.strip("_").replace("_", " ")] += 1
            return True
        return False

    def catch_up(self) -> None:
        """Do what is due by now: a waking, an operator's restart, and a supervisor's of a cluster that has ended.

        A cluster ends by itself too: django-q2 does where the database is away when it starts.
        """
        for member in self._members:
            if member.has_ended and member not in self._restarting:
                self._restart_in(RESTART_SECONDS, member)
        due = [entry for entry in self._later if entry[0] <= time.monotonic()]
        self._later = [entry for entry in self._later if entry not in due]
        for _, action in due:
            action()

    def _restart_in(self, seconds: float, member: Member) -> None:
        self._restarting.add(member)
        member.impair(seconds + 10)
        self._in(seconds, partial(self._restart, member))

    def _restart(self, member: Member) -> None:
        self._restarting.discard(member)
        member.restart()

    @property
    def had_their_turn(self) -> bool:
        """Whether each of the harmful events has happened."""
        return self._deals > 1 or not self._harmful

    @property
    def pending(self) -> bool:
        """Whether something is still to be restarted or woken."""
        return bool(self._later)

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def _kill_child(self, member: Member) -> bool:
        if (found := member.busy_worker()) is None:
            return False
        worker, children = found
        send(self._chance.choice(children), signal.SIGKILL)
        send(worker, signal.SIGCONT)
        return True

    def _kill_worker(self, member: Member) -> bool:
        if (found := member.busy_worker()) is None:
            return False
        send(found[0], signal.SIGKILL)
        return True

    def _kill_helper(self, member: Member) -> bool:
        """Kill an idle worker, which takes the lock of the queue along, or the monitor, or the pusher."""
        if not (helpers := member.helpers()):
            return False
        send(self._chance.choice(helpers), signal.SIGKILL)
        member.impair(OPERATOR_SECONDS + 10)
        self._in(OPERATOR_SECONDS, member.restart)
        return True

    def _kill_sentinel(self, member: Member) -> bool:
        if (sentinel := member.sentinel()) is None:
            return False
        send(sentinel, signal.SIGKILL)
        member.impair(RESTART_SECONDS + 10)
        return True

    def _kill_cluster(self, member: Member) -> bool:
        member.cluster.kill()
        member.impair(RESTART_SECONDS + 10)
        return True

    def _freeze_worker(self, member: Member) -> bool:
        if (found := member.busy_worker()) is None:
            return False
        worker = found[0]
        if self._holds_everybody_up():
            send(worker, signal.SIGCONT)
            return False
        self._in(FREEZE_SECONDS, lambda: send(worker, signal.SIGCONT))
        return True

    def _freeze_cluster(self, member: Member) -> bool:
        for pid in member.cluster.pids():
            send(pid, signal.SIGSTOP)
        if self._holds_everybody_up():
            member.wake()
            return False
        member.impair(FREEZE_SECONDS + 5)
        self._in(FREEZE_SECONDS, member.wake)
        return True

    def _holds_everybody_up(self) -> bool:
        """Was a process stopped inside a transaction of SQLite? That is the one lock of the whole database."""
        if self._sqlite_file is None:
            return False
        file = sqlite3.connect(self._sqlite_file, timeout=3, isolation_level=None)
        try:
            file.execute("BEGIN IMMEDIATE")
            file.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            file.close()
        return False

    def _restart_git_server(self, member: Member) -> bool:
        if self._restarts["Git server"] == MOST_RESTARTS:
            return False
        self._restarts["Git server"] += 1
        self._git_server.restart(pause_seconds=0.5)
        return True

    def _restart_database(self, member: Member) -> bool:
        if self._server is None or self._restarts["database"] == MOST_RESTARTS:
            return False
        self._restarts["database"] += 1
        began = time.monotonic()
        self._server.restart(
            pause_seconds=self._chance.choice([0.2, 3]), number=self._chance.choice([signal.SIGINT, signal.SIGQUIT])
        )
        self.outages.append((began, time.monotonic()))
        connection.close()
        return True
