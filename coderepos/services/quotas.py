"""What a project and a user may use, as ``LIMITS`` says."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from coderepos.conf import ConfigurationError, conf
from coderepos.limits import Limits


def limits_of(project: Any, user: Any) -> Limits:
    """Return the limits of a project for the user who asks; not to be called inside of a transaction of ours.

    :raises ConfigurationError: what ``LIMITS`` names does not return limits.
    """
    limits = import_string(conf.LIMITS)(project, user)
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"{conf.LIMITS} must return coderepos.limits.Limits.")
    return limits
