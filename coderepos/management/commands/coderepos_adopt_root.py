"""``manage.py coderepos_adopt_root``: take over a sandbox root that was moved or emptied on purpose."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from coderepos.exceptions import CodeReposError
from coderepos.management import base
from coderepos.services.disk.this_machine import adopt_root


class Command(base.Command):
    """Mark the sandbox root of this machine anew."""

    help = (
        "Marks SANDBOX_BASE_PATH as the sandbox root of this machine, after it was moved or emptied on purpose. "
        "Workers refuse a root that has lost its marker: its disk may just not be mounted. Run it on that machine, as "
        "the user of the workers. Clones that are gone become FAILED with sandbox_missing at the next sweep."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Mark it and say so.

        :raises CommandError: it is not safe, or belongs to another installation.
        """
        try:
            root = adopt_root()
        except CodeReposError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"{root.path} is the sandbox root of this machine.")
