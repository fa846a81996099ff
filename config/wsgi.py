"""The WSGI application: ``gunicorn config.wsgi``."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()

# A web server makes no system checks, and would notice at the first login that this is empty.
settings.SECRET_KEY  # noqa: B018
