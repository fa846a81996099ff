"""Types of the values in ``settings.CODEREPOS``: no other check looks at values of which this one complains."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from django.conf import settings
from django.core import checks

from coderepos.checks.messages import error
from coderepos.conf import SETTINGS, conf


def is_dict() -> bool:
    """Return whether there is a dict to look at."""
    return isinstance(getattr(settings, "CODEREPOS", {}), dict)


def are_usable() -> bool:
    """Return whether values can be compared; :func:`~coderepos.checks.check_settings` says what is wrong if not."""
    return is_dict() and not any(wrong_types())


def wrong_types() -> Iterator[checks.CheckMessage]:
    """Yield an error for every value of a wrong type or out of its range."""
    for key, setting in SETTINGS.items():
        if fault := setting.kind.fault(partial(getattr, conf, key)):
            yield error(2, f"CODEREPOS[{key!r}] {fault.message}", fault.hint)
