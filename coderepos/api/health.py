"""The one endpoint without an authenticated caller: two words, for load balancers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db import models
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from rest_framework import serializers
from rest_framework.metadata import SimpleMetadata
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from coderepos.api.errors import handle_exception
from coderepos.api.fields import NamedChoiceField
from coderepos.api.formats import JsonParser, JsonRenderer
from coderepos.services.health import pulse


class HealthStatus(models.TextChoices):
    """The second of the two words."""

    OK = "ok"
    FAILING = "failing"


class HealthSerializer(serializers.Serializer[Any]):
    """The answer, in two words."""

    status = NamedChoiceField(HealthStatus, help_text="Whether workers are there and take what is due.")


class AlwaysJson(BaseContentNegotiation):
    """JSON, whatever a monitor says that it accepts."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        """Return the only parser."""
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return the only renderer."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


@method_decorator(never_cache, name="dispatch")
class HealthView(APIView):
    """Health: whether workers are there and take what is due."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()
    parser_classes = (JsonParser,)
    renderer_classes = (JsonRenderer,)
    metadata_class = SimpleMetadata
    content_negotiation_class = AlwaysJson
    versioning_class = None

    def get(self, request: Request) -> Response:
        """Answer 200 while workers are there and take what is due, else 503; within two seconds."""
        healthy = pulse.is_healthy()
        status = HealthStatus.OK if healthy else HealthStatus.FAILING
        response = Response({"status": str(status)}, status=200 if healthy else 503)
        # Django would log, and mail to the host's ADMINS, each answer; the log has one line for each change.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """Answer errors in our shape, whatever the host's handler is."""
        return handle_exception
