"""What happens to machines, their disks, and the storage that they share."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from django.db.models.functions import Now

from coderepos.models import CodeRepository, Node
from coderepos.services.draining import remainder_of, set_draining
from tests.chaos.events import FREEZE_SECONDS, Events
from tests.chaos.installation import Member, Room, send
from tests.chaos.storage import away_file, slow_file
from tests.support.cluster import ROOT

LOST_SECONDS = 25
"""How long a lost machine is off: long enough for others to take over what it had."""

DRAIN_SECONDS, OFF_SECONDS = 60, 10
"""How long an operator waits at most until a machine may be switched off, and how long it is off."""

OUTAGE_SECONDS = 15
HOURS_PASS_SHARE = 0.1


class MachineEvents(Events):
    """As on one machine, and two of three may be harmed at a time."""

    def __init__(self, room: Room, chance: random.Random) -> None:
        super().__init__(room, chance)
        self._room = room

    def catch_up(self) -> None:
        """Do what is due by now; and now and then hours pass, after which nobody uses most clones."""
        super().catch_up()
        if self._chance.random() < HOURS_PASS_SHARE:
            long_ago = Now() - timedelta(hours=2)
            CodeRepository.objects.exclude(cloned_at=None).update(cloned_at=long_ago, last_used_at=long_ago)
            self.done["hours pass"] += 1

    def _may_harm(self, healthy: list[Member]) -> bool:
        return len(healthy) > 1

    def _deal(self) -> None:
        events = [
            *(self._lose_machine, self._lose_disk, self._drain_machine, self._freeze_machine),
            *(self._storage_away, self._storage_slow, self._storage_away, self._kill_helper),
        ]
        self._harmful = self._chance.sample(events, len(events))
        self._restarts.clear()
        self._deals += 1

    def _lose_machine(self, member: Member) -> bool:
        """Switch it off until others have replaced what it had; it comes back with its disk."""
        member.cluster.kill()
        self._restart_in(LOST_SECONDS, member)
        return _have_minutes_passed_for(member)

    def _lose_disk(self, member: Member) -> bool:
        """Switch it off; it comes back with an empty disk, which the operator lets it have."""
        member.cluster.kill()
        self._restart_in(LOST_SECONDS, member)
        shutil.rmtree(member.root, onerror=_let_remove)
        self._in(LOST_SECONDS - 5, partial(_adopt_root, member))
        return _have_minutes_passed_for(member)

    def _freeze_machine(self, member: Member) -> bool:
        """Let it hang for longer than a lease while it counts as lost, and go on."""
        for pid in member.cluster.pids():
            send(pid, signal.SIGSTOP)
        member.impair(FREEZE_SECONDS + 5)
        self._in(FREEZE_SECONDS, member.wake)
        return _have_minutes_passed_for(member)

    def _drain_machine(self, member: Member) -> bool:
        """Have it claim nothing more, switch it off, and let it claim again; what only it has waits for it."""
        node = Node.objects.get(pk=member.name)
        set_draining(node, draining=True)
        member.impair(DRAIN_SECONDS + OFF_SECONDS + 10)

        self._in(2, partial(self._switch_off, member, node, time.monotonic() + DRAIN_SECONDS))
        return True

    def _switch_off(self, member: Member, node: Node, latest: float) -> None:
        rest = remainder_of(node)
        is_drained = not (rest.running or rest.unstored or rest.purges)
        if not is_drained and time.monotonic() < latest:
            self._in(2, partial(self._switch_off, member, node, latest))
            return
        self.done["drained" if is_drained else "not drained in time"] += 1
        member.cluster.kill()
        self._restart_in(OFF_SECONDS, member)
        self._in(OFF_SECONDS, partial(set_draining, node, draining=False))

    def _storage_away(self, member: Member) -> bool:
        return self._storage_fails(away_file(self._room.packs))

    def _storage_slow(self, member: Member) -> bool:
        return self._storage_fails(slow_file(self._room.packs))

    def _storage_fails(self, file: Path) -> bool:
        if file.exists():
            return False
        file.touch()
        self._in(OUTAGE_SECONDS, file.unlink)
        return True


def _have_minutes_passed_for(member: Member) -> bool:
    return bool(Node.objects.filter(pk=member.name).update(last_seen=Now() - timedelta(minutes=3)))


def _let_remove(function: Callable[[str], None], path: str, _: object) -> None:
    Path(path).parent.chmod(0o700)
    Path(path).chmod(0o700)
    function(path)


def _adopt_root(member: Member) -> None:
    environment = {**os.environ, "CODEREPOS_TEST_OVERRIDES": json.dumps(member.values)}
    command = [sys.executable, str(ROOT / "manage.py"), "coderepos_adopt_root"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)
