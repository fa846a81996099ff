"""The use cases: what the API and the admin call, and the code of hosts (``docs/python.md``).

What the workers of the queue call is in :mod:`coderepos.services.worker`.
"""

from __future__ import annotations

from coderepos.services import worker as worker
from coderepos.services.repositories.cancelling import cancel_repository
from coderepos.services.repositories.changing import change_repository
from coderepos.services.repositories.cleaning import clean_repository
from coderepos.services.repositories.connecting import Connection, clone_repository, connect_repository
from coderepos.services.repositories.disconnecting import disconnect_repository, disconnecting_as
from coderepos.services.repositories.reading import open_clone
from coderepos.services.repositories.status import Status, status_of
from coderepos.services.repositories.tokens import replace_token

__all__ = [
    "Connection",
    "Status",
    "cancel_repository",
    "change_repository",
    "clean_repository",
    "clone_repository",
    "connect_repository",
    "disconnect_repository",
    "disconnecting_as",
    "open_clone",
    "replace_token",
    "status_of",
]
