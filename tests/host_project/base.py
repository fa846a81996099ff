"""What every host of the tests sets as docs/mounting.md asks for; each adds what it does its own way."""

from __future__ import annotations

import base64

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "rest_framework",
    "django_q",
    "coderepos",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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
            ]
        },
    }
]
SQLITE_OPTIONS = {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
Q_CLUSTER = {
    "name": "host",
    "orm": "default",
    "workers": 1,
    "timeout": 360,
    "retry": 1140,
    "ack_failures": True,
    "max_attempts": 1,
    "queue_limit": 1,
    "bulk": 1,
    "catch_up": False,
    "poll": 0.2,
}
CODEREPOS = {"MASTER_ENCRYPTION_KEY": base64.b64encode(bytes(range(32))).decode()}
