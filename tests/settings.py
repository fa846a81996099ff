"""The host project with values of its own, whatever the caller's environment; only ``DATABASE_URL`` gets through."""

from __future__ import annotations

import atexit
import base64
import json
import os
import shutil
import tempfile
from pathlib import Path

from config.settings import *  # noqa: F403  settings that start from others is what this module is
from config.settings import DATABASES, Q_CLUSTER, STORAGES

# One folder for all processes of a run: those that the tests start inherit it.
if "CODEREPOS_TEST_DIR" not in os.environ:
    os.environ["CODEREPOS_TEST_DIR"] = tempfile.mkdtemp(prefix="coderepos-test-")
    atexit.register(shutil.rmtree, os.environ["CODEREPOS_TEST_DIR"], ignore_errors=True)
TEST_DIR = Path(os.environ["CODEREPOS_TEST_DIR"], os.environ.get("PYTEST_XDIST_WORKER", ""))

DEBUG = False
SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["testserver", "127.0.0.1", "localhost"]
SECURE_SSL_REDIRECT = False
SESSION_COOKIE_SECURE = False
CSRF_COOKIE_SECURE = False
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# A file, not memory: a real cluster in another process works on the same database.
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["TEST"] = {"NAME": TEST_DIR / "test.sqlite3"}

STATIC_ROOT = TEST_DIR / "static"
STATIC_ROOT.mkdir(parents=True, exist_ok=True)
STORAGES = {
    **STORAGES,
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    **json.loads(os.environ.get("CODEREPOS_TEST_STORAGES", "{}")),
}

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CODEREPOS = {
    "MASTER_ENCRYPTION_KEY": base64.b64encode(bytes(range(32))).decode(),
    "SANDBOX_BASE_PATH": str(TEST_DIR / "repos"),
    "NODE_ID": "test-node",
    # Servers of the tests are slow on purpose; those of the least speed set their own.
    "MIN_RATE_KB": 0,
    # What a test that starts another process wants to differ there.
    **json.loads(os.environ.get("CODEREPOS_TEST_OVERRIDES", "{}")),
}
Q_CLUSTER = {**Q_CLUSTER, "name": "coderepos-test", "workers": 2, "timeout": 360, "retry": 1140, "poll": 0.2}
