"""What every command of the app has in common."""

from __future__ import annotations

import sys
from typing import Final

from django.core.management.base import BaseCommand

INTERRUPTED_STATUS: Final = 128 + 2
"""Exit status of a program that Ctrl-C ended, as shells report it."""


class Command(BaseCommand):
    """A command that Ctrl-C ends without a traceback; what it has committed stays."""

    def run_from_argv(self, argv: list[str]) -> None:
        """Run it as from a shell.

        :raises SystemExit: with :data:`INTERRUPTED_STATUS` after Ctrl-C.
        """
        try:
            super().run_from_argv(argv)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED_STATUS)
