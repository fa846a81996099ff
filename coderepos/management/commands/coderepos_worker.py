"""``manage.py coderepos_worker``: run the workers of this machine under a supervisor that ends them when they fail."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import CommandError

from coderepos import queues
from coderepos.conf import conf
from coderepos.management import base
from coderepos.management.numbers import seconds
from coderepos.supervision.supervisor import STOP_SECONDS, Supervisor

MOST_SECONDS: Final = 86_400


class Command(base.Command):
    """Run a cluster of django-q2 in the foreground, for systemd or a container to restart.

    Exit status: 0 after SIGTERM, SIGINT or SIGHUP; 1 where the cluster failed, and a line in the log says how.
    """

    help = (
        "Runs the workers in the foreground, and exits when they fail, to be restarted. Exit status: 0 after "
        "SIGTERM, SIGINT (Ctrl-C) or SIGHUP; 1 if due jobs were not taken although workers were free, or the "
        "cluster died or could not start."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer how long a stop may take."""
        parser.add_argument(
            "--stop-seconds",
            type=seconds(least=0, most=MOST_SECONDS),
            default=STOP_SECONDS,
            help="how long running tasks may take to end after SIGTERM; those that do not are killed, and their jobs "
            "are taken by other workers (default: %(default)s)",
        )

    def handle(self, *args: Any, stop_seconds: float, **options: Any) -> None:
        """Run until a signal or a failure.

        :raises CommandError: the queue has no workers that could run here.
        :raises SystemExit: they ended.
        """
        if (reason := queues.current().why_no_workers()) is not None:
            raise CommandError(f"{conf.QUEUE}: {reason}")
        sys.exit(Supervisor(stop_seconds=stop_seconds).run())
