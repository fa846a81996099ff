"""The API as a program of a user calls it: real HTTP with a token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.support.cluster import wait_until


@dataclass
class Answer:
    """One answer of the API."""

    status: int
    body: Any
    headers: Any


@dataclass
class Api:
    """The API as a program of the user sees it: real HTTP with a token."""

    base: str
    key: str

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.call("POST", path, json.dumps(body or {}).encode())

    def call(self, method: str, path: str, data: bytes | None = None) -> Answer:
        headers = {"Authorization": f"Token {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base}/api/v1/code{path}", data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, json.load(answer), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error), error.headers)

    def wait_for(self, repo_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """Return the status body once ``clone_status`` is one of ``statuses``."""
        seen: list[dict[str, Any]] = []

        def arrived() -> bool:
            body = self.get(f"/repos/{repo_id}/status").body
            if not seen or seen[-1] != body:
                seen.append(body)
            return body["clone_status"] in statuses

        wait_until(arrived, seconds=seconds, what=f"{statuses} of {repo_id}, last seen {seen[-1:]},")
        return seen[-1]
