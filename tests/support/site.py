"""A site as its callers see it: the API in this process, and one attempt of a worker at a time."""

from __future__ import annotations

from typing import Any, Protocol

from django.contrib.auth.models import User
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos import services
from coderepos.git.network_policy import NetworkPolicy
from coderepos.models import Job
from coderepos.projects.models import Project

ADDRESS = "/api/v1/code"
TOKEN = "ghp_NobodyMayEverReadThis0123456789abcd"


class Host(Protocol):
    """A Git server that says under which policy it may be asked."""

    def policy(self) -> NetworkPolicy: ...


class Site:
    """The API of a site, and its worker."""

    def __init__(self, settings: Settings, user: User, project: Project) -> None:
        self.client = APIClient()
        self.client.force_login(user)
        self._settings = settings
        self._project = project

    def trust(self, host: Host, **changes: Any) -> None:
        """Allow a Git host, and change further keys of ``CODEREPOS``."""
        policy = host.policy()
        self._settings.CODEREPOS = {
            **self._settings.CODEREPOS,
            "PRIVATE_GIT_HOSTS": list(policy.private_hosts),
            "INSECURE_HTTP_HOSTS": list(policy.insecure_http_hosts),
            "GIT_CA_BUNDLE": policy.ca_bundle,
            **changes,
        }

    def connect(self, git_url: str, **values: Any) -> Any:
        """Return the answer to a connect call."""
        body = {"git_url": git_url, "project_id": str(self._project.pk), **values}
        return self.client.post(f"{ADDRESS}/connect", body, format="json")

    def connected(self, git_url: str, **values: Any) -> str:
        """Connect a repository and return its id."""
        answer = self.connect(git_url, **values)
        assert answer.status_code == 201, answer.json()
        repo_id: str = answer.json()["repo_id"]
        return repo_id

    def work(self, repo_id: str) -> str:
        """Carry out one attempt of the newest job, as a worker does, and return what became of it.

        Jobs whose turn is before it are carried out too.
        """
        wanted = self.job(repo_id)
        while True:
            outcome = services.worker.run_clone(job_id=wanted.pk)
            if outcome == "unclaimed" or Job.objects.filter(pk=wanted.pk, attempt__gt=wanted.attempt).exists():
                return outcome

    def job(self, repo_id: str) -> Job:
        """Return the newest job of a repository."""
        return Job.objects.filter(repository__pk=repo_id).latest("created_at")

    def status(self, repo_id: str) -> dict[str, Any]:
        """Return the body of the status call."""
        body: dict[str, Any] = self.client.get(f"{ADDRESS}/repos/{repo_id}/status").json()
        return body
