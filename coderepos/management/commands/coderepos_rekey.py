"""``manage.py coderepos_rekey``: move every sealed token under the primary key."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import router

from coderepos.crypto.keyring import keyring
from coderepos.crypto.rotation import BATCH_ROWS, Outcome, count_by_kid, count_waiting, rekey, sealed_columns
from coderepos.exceptions import EncryptionUnavailable
from coderepos.management import base
from coderepos.management.numbers import number
from coderepos.models import AuditEntry, AuditEvent
from coderepos.setting_types import Number

EXIT_ROWS_LEFT: Final = 3
EXIT_KEY_UNAVAILABLE: Final = 4
SHOWN_ROWS: Final = 20
MOST_BATCH_ROWS: Final = 100_000


class Command(base.Command):
    """Rotate the master key without downtime; safe to stop, to repeat, and to run while the site does its work.

    Exit status: 0, every token is under the primary key; 3, some are not; 4, a key is currently unavailable;
    1 or 2, as of any command, it did not get that far.
    """

    help = (
        "Moves every sealed token under the primary key. Make the new key primary and keep the old one decrypt-only "
        "first. Exit status: 0 every token is under the primary key (with --dry-run: can be moved), 3 some are not, "
        "4 a key is currently unavailable, run it again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer a rehearsal, the size of a batch and the database."""
        parser.add_argument("--dry-run", action="store_true", help="try every token, write nothing")
        rows = number(Number(least=1, most=MOST_BATCH_ROWS, unit="rows", whole=True))
        parser.add_argument("--batch-rows", type=rows, default=BATCH_ROWS, help="rows per transaction")
        parser.add_argument("--database", help="alias of the database; the one of each table where it is left out")

    def handle(self, *args: Any, dry_run: bool, batch_rows: int, database: str | None, **options: Any) -> None:
        """Move the tokens of one column after the other.

        :raises CommandError: tokens are left under other keys, or a key is currently unavailable.
        """
        self._counts: dict[str, dict[str, dict[str, int]]] = {}
        try:
            primary = keyring().require_primary().kid
            left = sum(
                self._column(column, primary, dry_run, batch_rows, database or router.db_for_write(column.model))
                for column in sealed_columns()
            )
        except EncryptionUnavailable:
            unavailable = True
        else:
            unavailable = False
        if self._counts and not dry_run:
            details = {"complete": not unavailable, "tokens": self._counts}
            AuditEntry.objects.using(database).record(AuditEvent.REKEYED, details=details)
        if unavailable:
            raise CommandError(
                "A key is currently unavailable. What was moved stays moved; run the command again.",
                returncode=EXIT_KEY_UNAVAILABLE,
            )
        if left:
            raise CommandError(
                f"{left} tokens are not under the primary key in the present format. Keep the old keys.",
                returncode=EXIT_ROWS_LEFT,
            )

    def _column(self, column: Any, primary: str, dry_run: bool, batch_rows: int, database: str) -> int:
        """Move one column and return how many tokens are left under other keys, or would be."""
        name = f"{column.model._meta.db_table}.{column.column}"
        before = count_by_kid(column, using=database)
        self._counts[name] = {"before": before}
        total = count_waiting(column, primary, using=database)
        self._show_counts(name, before, primary)
        bar = _Bar(self, total)
        outcome = rekey(column, using=database, dry_run=dry_run, batch_rows=batch_rows, progress=bar.advance)
        bar.finish()
        self._show_outcome(name, outcome, dry_run)
        if dry_run:
            return len(outcome.undecryptable)
        after = self._counts[name]["after"] = count_by_kid(column, using=database)
        self._show_counts(name, after, primary)
        return count_waiting(column, primary, using=database)

    def _show_counts(self, name: str, counts: dict[str, int], primary: str) -> None:
        for kid, count in counts.items():
            self.stdout.write(f"{name}: {count} under {kid}{' (primary)' if kid == primary else ''}")
        if not counts:
            self.stdout.write(f"{name}: no tokens")

    def _show_outcome(self, name: str, outcome: Outcome, dry_run: bool) -> None:
        self.stdout.write(f"{name}: {outcome.moved} {'can be moved' if dry_run else 'moved'}")
        for pk in outcome.undecryptable[:SHOWN_ROWS]:
            self.stderr.write(f"{name}: the token of row {pk} does not open under any key")
        if len(outcome.undecryptable) > SHOWN_ROWS:
            self.stderr.write(f"{name}: and {len(outcome.undecryptable) - SHOWN_ROWS} more")


class _Bar:
    """A progress bar on a terminal; nothing in a file."""

    WIDTH: Final = 40

    def __init__(self, command: base.Command, total: int) -> None:
        self._command = command
        self._total = total
        self._rows = 0
        self._shown = total > 0 and command.stdout.isatty()

    def advance(self, rows: int) -> None:
        """Show that further rows are done."""
        self._rows = min(self._total, self._rows + rows)
        if self._shown:
            filled = self.WIDTH * self._rows // self._total
            bar = "#" * filled + "." * (self.WIDTH - filled)
            self._command.stdout.write(f"\r[{bar}] {self._rows}/{self._total}", ending="")
            self._command.stdout.flush()

    def finish(self) -> None:
        """Go on below the bar."""
        if self._shown:
            self._command.stdout.write("")
