"""``manage.py coderepos_uninstall``: leave nothing of the app in this database and on this machine."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.core.management import call_command
from django.core.management.base import CommandError

from coderepos.conf import ConfigurationError
from coderepos.exceptions import CodeReposError
from coderepos.management import base
from coderepos.models import alias
from coderepos.services.uninstalling import other_nodes, remove_sandboxes, remove_stored_packs, remove_traces


class Command(base.Command):
    """Remove sandboxes, tables, schedules, waiting tasks, permissions and content types."""

    help = (
        "Removes everything that the app keeps: the sandboxes of this machine, its tables, its schedules and waiting "
        "tasks, its permissions and content types, and the packs in its storage. Stop the workers first, and run it "
        "as their user. If several machines run workers, first run it with --disk-only on each of the others."
    )
    requires_system_checks = ()  # it is a way out of what they find, too

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer to ask nothing, and to leave the database alone."""
        parser.add_argument("--noinput", "--no-input", action="store_true", help="ask nothing")
        parser.add_argument("--disk-only", action="store_true", help="remove only the sandboxes of this machine")

    def handle(self, *args: Any, noinput: bool, disk_only: bool, **options: Any) -> None:
        """Ask, and remove.

        :raises CommandError: the answer is not yes, or the sandboxes cannot be removed; the database was left alone.
        """
        if not noinput:
            self._ask(disk_only=disk_only)
        try:
            self.stdout.write(f"{remove_sandboxes()} sandboxes removed")
        except CodeReposError as error:
            raise CommandError(f"{error.message} The database was left alone.") from None
        if disk_only:
            return
        try:
            if removed := remove_stored_packs():
                self.stdout.write(f"packs of {removed} repositories removed from the storage")
        except (CodeReposError, ConfigurationError) as error:
            raise CommandError(f"{error} The database was left alone.") from None
        for label in ("coderepos", "coderepos_projects"):
            if apps.is_installed(label.replace("_", ".")):
                call_command("migrate", label, "zero", database=alias(), verbosity=0, skip_checks=True)
                self.stdout.write(f"tables of {label} removed")
        for name, count in remove_traces().items():
            self.stdout.write(f"{count} of {name} removed")
        self.stdout.write("Now take the app out of INSTALLED_APPS, the settings and the URLs.")

    def _ask(self, *, disk_only: bool) -> None:
        what = "the sandboxes of this machine" if disk_only else "every repository, token, job and audit entry"
        if not disk_only and (others := other_nodes()):
            self.stdout.write(f"Sandboxes stay on other machines: {', '.join(others)}. See --disk-only.")
        if input(f"This removes {what}, permanently. Are the workers stopped? Type 'yes' to go on: ") != "yes":
            raise CommandError("Nothing was removed.")
