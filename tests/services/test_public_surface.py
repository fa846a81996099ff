"""What the page on Python says about the services is so, and its example runs."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from coderepos import services
from coderepos.models import AuditEntry, CodeRepository, Job, JobState, ProjectMembership, Role
from coderepos.projects.models import Project
from coderepos.services.repositories.changing import CHANGEABLE
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

PAGE = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FUNCTIONS = [name for name in services.__all__ if inspect.isfunction(getattr(services, name))]


def test_page_has_every_name() -> None:
    """Nothing else is exported."""
    assert sorted(SECTIONS) == sorted(services.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_the_documented_ones(name: str) -> None:
    """Names, order, defaults, and what is given by name."""
    printed = re.findall(r"^```text\n(.*?)\n```", SECTIONS[name], re.MULTILINE | re.DOTALL)
    function = ast.parse(f"def {printed[0]}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    documented: dict[str, Any] = {argument.arg: None for argument in function.args.args}
    documented |= {
        argument.arg: default and ast.literal_eval(default)
        for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    }
    parameters = dict(inspect.signature(getattr(services, name)).parameters)
    if parameters.pop("changes", None):
        parameters |= {changed: inspect.Parameter(changed, inspect.Parameter.KEYWORD_ONLY) for changed in CHANGEABLE}

    assert [*documented] == [*parameters]
    assert {name: one.default for name, one in parameters.items() if one.default is not one.empty} == {
        name: documented[name] for name, one in parameters.items() if one.default is not one.empty
    }
    assert [argument.arg for argument in function.args.kwonlyargs] == [
        name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_of_a_docstring_are_on_the_page(name: str) -> None:
    """Each that it raises is named."""
    raised = set(re.findall(r":raises (\w+):", inspect.getdoc(getattr(services, name)) or ""))

    assert raised - {"CodeReposError"} <= set(re.findall(r"`(\w+)`", SECTIONS[name]))


@pytest.mark.django_db(transaction=True)
def test_example_runs(tmp_path: Path, settings: Settings) -> None:
    """Block by block, with a worker after each, it prints what its comments say."""
    repository = make_repository(tmp_path / "repo.git")
    (repository / "README").write_text("Hello")
    git("add", "README", cwd=repository)
    git("commit", "--quiet", "-m", "readme", cwd=repository)
    server = GitServer(tmp_path)
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    user, project = User.objects.create_user("ada"), Project.objects.create(name="Rocket")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    names: dict[str, Any] = {"user": user, "project": project, "token": "t" * 30, "new_token": "n" * 30}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

    with server:
        for block in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(block.replace("https://github.com/user/repo.git", server.url("repo.git")), names)  # noqa: S102
            assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
            for job in Job.objects.filter(state=JobState.QUEUED):
                assert services.worker.run_clone(job_id=job.pk) == "succeeded"

    assert not CodeRepository.objects.exists()
    entry = AuditEntry.objects.newest_first().first()
    assert entry is not None
    assert (entry.event, entry.actor_name) == ("disconnected", "ada")
