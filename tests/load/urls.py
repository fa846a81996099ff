"""The addresses of the host project, and a view that does nothing."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class EmptyView(APIView):
    """What REST framework itself costs: callers are authenticated as everywhere, and there is nothing to say."""

    def get(self, request: Request) -> Response:
        """Answer with nothing."""
        return Response({})


urlpatterns = [path("empty", EmptyView.as_view()), path("", include("config.urls"))]
