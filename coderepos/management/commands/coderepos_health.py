"""``manage.py coderepos_health``: whether jobs get done on this site and this machine, and what is wrong if not."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from coderepos.management import base
from coderepos.services.health.finding import Finding, Level, worst
from coderepos.services.health.report import examine


class Command(base.Command):
    """Print the whole report; exit status 0 it is healthy, 1 it is not."""

    help = (
        "Says whether jobs get done, in a few seconds even where the database, the key service or the disk hangs. "
        "Run it as the user of the workers. Exit status: 0 healthy, warnings included; 1 not."
    )
    # A check of the host may ask what hangs.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer the form of the report."""
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object, for monitors")

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as any command, and end the process with all threads that hang: Python's own way out may wait for one."""
        status: str | int | None = 0
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else bool(status))

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        """Print the report.

        :raises CommandError: something is failing.
        """
        findings = examine()
        status = worst(findings)
        self.stdout.write(_as_json(status, findings) if as_json else _as_text(findings))
        if status == Level.FAILING:
            names = dict.fromkeys(finding.check for finding in findings if finding.level == Level.FAILING)
            raise CommandError(f"failing: {', '.join(names)}")


def _as_json(status: Level, findings: list[Finding]) -> str:
    return json.dumps({"status": status, "checks": [asdict(finding) for finding in findings]}, ensure_ascii=False)


def _as_text(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.level.upper():<8} {finding.check:<13} {finding.text}" for finding in findings)
