"""The addresses of the host project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from coderepos.api.health import HealthView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/v1/code/", include("coderepos.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("health", HealthView.as_view(schema=None), name="health"),
]
