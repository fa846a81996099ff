"""Where the host mounts the app: a place of its own choice."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("code/", include("coderepos.api.urls")),
]
