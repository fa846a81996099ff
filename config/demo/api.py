"""The API as a client sees it: requests over HTTP, nothing else."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

PREFIX: Final = "/api/v1/code"
TIMEOUT_SECONDS: Final = 60


@dataclass(frozen=True)
class Answer:
    """Status and body of one answer."""

    status: int
    body: Any

    def __str__(self) -> str:
        return f"{self.status} {json.dumps(self.body, indent=2, ensure_ascii=False)}"


class Api:
    """Calls the API of one installation in the name of one user.

    :param url: address of the web server, ``http://host:port``.
    :param token: API token of the user.
    """

    def __init__(self, url: str, *, token: str) -> None:
        self._host = urlsplit(url).netloc
        self._headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def get(self, path: str) -> Answer:
        """Send a GET for ``path`` below the API."""
        return self._send("GET", PREFIX + path)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Send ``body`` as JSON in a POST to ``path`` below the API."""
        return self._send("POST", PREFIX + path, json.dumps(body))

    def healthy(self) -> bool:
        """Return whether the web server, its database and a worker are up."""
        try:
            return self._send("GET", "/health").status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _send(self, method: str, path: str, body: str | None = None) -> Answer:
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return Answer(response.status, json.loads(text))
        except ValueError:
            return Answer(response.status, text[:300])
