"""A third-party project that mounts the installed app: its own project model, its own session users, no extras."""

from __future__ import annotations

import os
import tempfile

from base import *  # noqa: F403  settings that start from others is what this module is
from base import CODEREPOS, INSTALLED_APPS, SQLITE_OPTIONS

ROOT_URLCONF = "urls"
USE_TZ = True
TIME_ZONE = "Asia/Tokyo"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["HOST_DATABASE"],
        "OPTIONS": SQLITE_OPTIONS,
    }
}
INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
CODEREPOS_PROJECT_MODEL = "shop.Project"
CODEREPOS = {**CODEREPOS, "SANDBOX_BASE_PATH": os.path.join(tempfile.gettempdir(), "host-project-repos")}
