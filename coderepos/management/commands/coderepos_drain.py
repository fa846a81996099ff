"""``manage.py coderepos_drain``: take a machine out of service without losing what only it has."""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import CommandError

from coderepos.conf import conf
from coderepos.crypto.process import close_process
from coderepos.exceptions import InvalidState
from coderepos.management import base
from coderepos.management.numbers import seconds
from coderepos.models import Node
from coderepos.services.draining import Remainder, give_up, remainder_of, set_draining

LOOK_SECONDS: Final = 2.0


class Command(base.Command):
    """Drain a machine, and say what it still has that no other has."""

    help = (
        "Stops the workers of a machine from claiming jobs; running ones finish, and what is not stored yet is stored. "
        "Exit status: 0 the machine can be switched off, 1 not yet, 2 there is no such machine, or --gone is refused. "
        "--resume undoes it. --gone is for a machine that never comes back."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer which machine, and what to do."""
        parser.add_argument("node", nargs="?", default="", help="its NODE_ID; this machine by default")
        parser.add_argument("--wait", action="store_true", help="wait until it can be switched off")
        parser.add_argument(
            "--for",
            type=seconds(least=0),
            default=math.inf,
            metavar="SECONDS",
            dest="for_seconds",
            help="with --wait: wait no longer than this",
        )
        parser.add_argument("--lose", action="store_true", help="accept losing what only it has")
        parser.add_argument("--resume", action="store_true", help="let it claim jobs again")
        parser.add_argument(
            "--gone", action="store_true", help="its disk is lost: nothing waits for it, and others replace its clones"
        )

    def handle(self, *args: Any, node: str, **options: Any) -> None:
        """Do it.

        :raises CommandError: there is no such machine, or it can't be switched off.
        """
        close_process()  # it may wait for hours
        name = node or conf.node_id
        found = Node.objects.filter(name=name).first()
        if found is None:
            raise CommandError(f"There is no machine {name!r}: see the machines in the admin.", returncode=2)
        if options["gone"]:
            self._give_up(found)
            return
        set_draining(found, draining=not options["resume"])
        if options["resume"]:
            self.stdout.write(f"{name} claims jobs again.")
            return
        ends_at = time.monotonic() + (options["for_seconds"] if options["wait"] else 0)
        rest = remainder_of(found)
        while not _may_go(rest, lose=options["lose"]) and time.monotonic() < ends_at:
            time.sleep(min(LOOK_SECONDS, max(0.0, ends_at - time.monotonic())))
            rest = remainder_of(found)
        self._report(name, rest, lose=options["lose"])

    def _give_up(self, node: Node) -> None:
        try:
            left = give_up(node)
        except InvalidState as error:
            raise CommandError(error.message, returncode=2) from None
        if left:
            raise CommandError(f"{left} of the clones of {node.name} are being replaced now: run this again later.")
        self.stdout.write(
            f"{node.name} is given up. What it had is restored where it is stored; its other clones are missing and "
            "can be cloned again. Empty its SANDBOX_BASE_PATH before it ever joins again."
        )

    def _report(self, name: str, rest: Remainder, *, lose: bool) -> None:
        self.stdout.write(
            f"{name} claims no more jobs. {rest.running} run; of {rest.published} published versions on its disk "
            f"{rest.unstored} have no other home; it has yet to remove what it holds of {rest.purges} repositories."
        )
        if not _may_go(rest, lose=lose):
            hint = (
                ""
                if conf.PACK_STORAGE or not rest.unstored
                else " There is no PACK_STORAGE: they have to be cloned again, --lose accepts it."
            )
            raise CommandError(f"{name} can't be switched off yet.{hint}")
        self.stdout.write(f"{name} can be switched off.")


def _may_go(rest: Remainder, *, lose: bool) -> bool:
    return not rest.running and (lose or not (rest.unstored or rest.purges))
