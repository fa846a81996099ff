"""The ASGI application: ``uvicorn config.asgi:application``."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_asgi_application()

# A web server makes no system checks, and would notice at the first login that this is empty.
settings.SECRET_KEY  # noqa: B018
