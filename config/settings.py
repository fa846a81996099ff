"""Settings of the host project, all of them from environment variables; see docs for the table of names."""

from __future__ import annotations

import base64
import math
import secrets
from pathlib import Path

from coderepos.conf import AppSettings
from coderepos.queue_timeouts import least_retry_seconds, least_timeout_seconds
from coderepos.setting_types import Number
from config import environment

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

DEBUG = environment.boolean("DEBUG") or False
ALLOWED_HOSTS = environment.items("ALLOWED_HOSTS") or []

# Django itself refuses to work with an empty key.
SECRET_KEY = environment.text("SECRET_KEY") or ""
if DEBUG and not SECRET_KEY:
    SECRET_KEY = environment.kept_secret(VAR_DIR / "secret_key", lambda: secrets.token_urlsafe(50))

DATABASES = {
    "default": environment.database("DATABASE_URL", base=BASE_DIR, default="sqlite:///var/db.sqlite3"),
}
if not environment.text("DATABASE_URL"):
    VAR_DIR.mkdir(mode=0o700, exist_ok=True)

INSTALLED_APPS = [
    "config",
    "coderepos",
    "coderepos.projects",
    "django_q",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "whitenoise.runserver_nostatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The app ---------------------------------------------------------------------------------------------------------

CODEREPOS = environment.app_settings()
if DEBUG and not {"MASTER_ENCRYPTION_KEY", "KMS_KEY_ID"} & CODEREPOS.keys():
    CODEREPOS["MASTER_ENCRYPTION_KEY"] = environment.kept_secret(
        VAR_DIR / "master_key", lambda: base64.b64encode(secrets.token_bytes(32)).decode()
    )

# The queue: the table of jobs is the source of truth, django-q2 only notifies workers ------------------------------

_workers = int(environment.number("CLONE_CONCURRENCY", Number(least=1, most=1_000, unit="workers", whole=True)) or 4)
_timeout_seconds = math.ceil(least_timeout_seconds(CODEREPOS.get("GIT_CLONE_TIMEOUT", AppSettings.GIT_CLONE_TIMEOUT)))

Q_CLUSTER = {
    "name": "coderepos",
    "orm": "default",
    "workers": _workers,
    "timeout": _timeout_seconds,
    "retry": math.ceil(least_retry_seconds(_timeout_seconds, _workers)),
    "ack_failures": True,
    "max_attempts": 1,
    "queue_limit": 1,
    "bulk": 1,
    "catch_up": False,
    "save_limit": 250,
    "recycle": 50,
    "poll": 0.5,
    "ALT_CLUSTERS": {},
}

# Rates are counted in a cache that all processes of this machine share ---------------------------------------------

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": VAR_DIR / "cache",
    },
}

# HTTP ------------------------------------------------------------------------------------------------------------

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

REST_FRAMEWORK = {
    # The first one decides what an anonymous caller gets: a token's challenge makes it 401.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "coderepos",
    "DESCRIPTION": "Connect Git repositories to projects and clone them into read-only sandboxes.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Outside DEBUG everything is HTTPS: gunicorn believes X-Forwarded-Proto from the proxies in its FORWARDED_ALLOW_IPS.
SECURE_SSL_REDIRECT = not DEBUG
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^api/v1/code/health$"]
SECURE_HSTS_SECONDS = 0 if DEBUG else 365 * 24 * 3600
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
# Subdomains and browsers' preload lists are for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

USE_TZ = True
TIME_ZONE = "UTC"

# Every handler redacts; Django's own two loggers give up theirs, which would not -----------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"redact": {"()": "coderepos.crypto.redaction.RedactingFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["redact"], "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "level": "INFO"},
    },
}
