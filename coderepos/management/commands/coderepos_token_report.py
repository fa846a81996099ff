"""``manage.py coderepos_token_report``: list the repositories that need a new token."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any, Final

from django.core.management.base import CommandError
from django.db.models import F, Q
from django.db.models.functions import Now

from coderepos.management import base
from coderepos.management.numbers import number
from coderepos.models import CodeRepository
from coderepos.models.token_status import EXPIRING_DAYS
from coderepos.setting_types import Number

EXIT_TOKENS_LISTED: Final = 3
MOST_DAYS: Final = 36_500


class Command(base.Command):
    """List what has to be replaced, for a cron that tells somebody; no token is read for it.

    Exit status: 0, there is nothing to do; 3, there is; 1 or 2, as of any command, it did not get that far.
    """

    help = (
        "Lists repositories whose token expires within the given days, has expired, or was refused by its Git host. "
        "Exit status: 0 there are none, 3 there are some."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer how far to look ahead, and the database."""
        ahead = number(Number(least=0, most=MOST_DAYS, unit="days", whole=True))
        parser.add_argument("--days", type=ahead, default=EXPIRING_DAYS, help="days to look ahead")
        parser.add_argument("--database", help="alias of the database; that of the tables where it is left out")

    def handle(self, *args: Any, days: int, database: str | None, **options: Any) -> None:
        """Print a line per repository, the most urgent first.

        :raises CommandError: there is any.
        """
        due = Q(token_accepted=False) | Q(token_expires_at__lte=Now() + timedelta(days=days))
        rows = CodeRepository.objects.using(database).without_token().with_token_status().filter(due)
        count = 0
        for row in rows.order_by(F("token_expires_at").asc(nulls_last=True), "id").iterator():
            end = f"{row.token_expires_at:%Y-%m-%d}" if row.token_expires_at else "unknown"
            place = " ".join((f"project {row.project_id}", str(row)))
            self.stdout.write(f"{row.token_status:<8} {end:<10} {row.pk} {place}")
            count += 1
        if count:
            raise CommandError(f"{count} tokens need to be replaced.", returncode=EXIT_TOKENS_LISTED)
