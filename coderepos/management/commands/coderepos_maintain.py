"""``manage.py coderepos_maintain``: the upkeep of this machine, for queues whose workers do not do it themselves."""

from __future__ import annotations

import math
from argparse import ArgumentParser
from typing import Any, Final

from coderepos.crypto.process import close_process
from coderepos.management import base
from coderepos.management.numbers import seconds
from coderepos.services.rounds.upkeep_thread import ROUND_SECONDS
from coderepos.services.worker import maintain, run_rounds

MOST_SECONDS: Final = 86_400


class Command(base.Command):
    """Do the periodic work of this machine: as a service, or from a cron."""

    help = (
        "Does the periodic work of this machine, as its workers do beside their clones where the queue lets them: "
        "expires leases, enqueues due jobs whose notification was lost, retries whose time has come, removes what was "
        "cleaned or deleted, and sweeps the sandbox root. Runs until it is stopped, unless --once or --for is given. "
        "Any number may run at once: a round that another process of this machine has just done is skipped. Run it as "
        "the user of the workers."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer how often, and for how long."""
        parser.add_argument("--once", action="store_true", help="do what is due, then exit; status 1 after an error")
        every_seconds = seconds(least=ROUND_SECONDS, most=MOST_SECONDS)
        parser.add_argument(
            "--every", type=every_seconds, default=ROUND_SECONDS, metavar="SECONDS", help="time between two rounds"
        )
        parser.add_argument(
            "--for",
            type=seconds(least=1),
            default=math.inf,
            metavar="SECONDS",
            dest="for_seconds",
            help="exit after this time",
        )

    def handle(self, *args: Any, once: bool, every: float, for_seconds: float, **options: Any) -> None:
        """Do it."""
        close_process()
        if not once:
            run_rounds(first_after_seconds=0, every_seconds=every, for_seconds=for_seconds)
            return
        done = maintain()
        if options["verbosity"] > 1:
            self.stdout.write(done)
