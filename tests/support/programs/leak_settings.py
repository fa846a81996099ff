"""The settings of the tests for a worker that logs everything, once redacted and once not, and keeps keys in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.settings import *  # noqa: F403  settings that start from others is what this module is
from tests.settings import CODEREPOS, LOGGING

DEBUG = True  # Django logs its statements then
_given = json.loads(Path(os.environ["CODEREPOS_LEAK_SETTINGS"]).read_text())
CODEREPOS = {**CODEREPOS, **_given["CODEREPOS"]}


def _file(name: str, *filters: str) -> dict[str, object]:
    return {
        "class": "logging.FileHandler",
        "filename": str(Path(_given["logs"], name)),
        "filters": filters,
        "formatter": "line",
    }


LOGGING = {
    **LOGGING,
    "handlers": {
        **LOGGING["handlers"],  # type: ignore[dict-item]
        "redacted": _file("worker-redacted.log", "redact"),
        "plain": _file("worker-plain.log"),
    },
    # Before Python 3.12 the filter redacts for the handlers after its own too.
    "root": {"handlers": ["plain", "console", "redacted"], "level": "DEBUG"},
    "loggers": {"django": {"handlers": [], "level": "DEBUG"}},
}
