"""``manage.py coderepos_generate_key``: make a local master key."""

from __future__ import annotations

import base64
import os
from typing import Any

from coderepos.crypto.message import KEY_BYTES
from coderepos.management import base


class Command(base.Command):
    """Print a new master key and nothing else, so that it can be piped into a secret store."""

    help = "Prints a new random key for MASTER_ENCRYPTION_KEY: base64 of 32 bytes."
    requires_system_checks = ()  # they fail as long as there is no key

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the key."""
        self.stdout.write(base64.b64encode(os.urandom(KEY_BYTES)).decode())
