"""What README and the page on mounting print runs as it stands, in a project of ``django-admin startproject``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.cluster import wait_until
from tests.support.host_project import ROOT, HostProject
from tests.support.servers.git_http_backend import GitServer

TOKEN = "ghp_OfThePrintedLines0123456789abcdefghi"
PUBLIC_URL = "https://github.com/user/repo.git"


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [dedent(block) for _, named, block in found if named == language]


def python_blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks of Python of a page, each with the file that its first line names."""
    return [(block.partition("\n")[0].removeprefix("# "), block) for block in blocks(page, "python")]


def mount(host: HostProject, page: str) -> None:
    """Write the blocks of a page into the files that they name."""
    for file, block in python_blocks(page):
        host.add(file if "/" in file else f"mysite/{file}", block)


def lines(block: str) -> str:
    """Return what to type of a block of shell: prompts go."""
    return re.sub(r"^\$ ", "", block, flags=re.MULTILINE)


class Shell:
    """A shell that is typed into block by block; what it started in the background ends with it."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "DATABASE"))}
        self._environment = {**clean, "PATH": path, "PYTHONPATH": str(ROOT)}
        self._folder = folder
        self._groups: list[int] = []

    def type(self, text: str, **environment: str) -> str:
        """Run a block and return what it printed; exported variables stay."""
        self._environment |= environment
        script = f"set -euo pipefail\nexec 2>errors\n{text}\nenv -0 > environment\n"
        with (self._folder / "output").open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            assert process.wait(timeout=120) == 0, (self._folder / "errors").read_text()
        entries = (self._folder / "environment").read_text().split("\0")
        self._environment = dict(entry.split("=", 1) for entry in entries if entry)
        return (self._folder / "output").read_text()

    def end(self) -> None:
        """End whatever still runs."""
        for group in self._groups:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(group, number)
                except ProcessLookupError:
                    break
                time.sleep(1)


@pytest.fixture
def host(tmp_path: Path) -> HostProject:
    """An empty project."""
    (tmp_path / "host").mkdir()
    return HostProject(tmp_path / "host")


@pytest.fixture
def shell(host: HostProject) -> Iterator[Shell]:
    """A shell in it."""
    shell = Shell(host.folder)
    yield shell
    shell.end()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server with one repository that wants the token."""
    root, work = tmp_path / "remote", tmp_path / "work"
    root.mkdir()
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (
        ["git", "init", "-q", "-b", "main", str(work)],
        ["git", "-C", str(work), *author, "commit", "-q", "--allow-empty", "-m", "the first one"],
        ["git", "clone", "-q", "--bare", str(work), str(root / "code.git")],
    ):
        subprocess.run(command, check=True)
    with GitServer(root, credentials=("git", TOKEN)) as server:
        yield server


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def is_open(port: int) -> bool:
    """Return whether somebody listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_readme_from_the_first_line_to_the_clone(host: HostProject, shell: Shell, server: GitServer) -> None:
    """Every line as printed; only host, token, port and sandbox root are those of this machine."""
    mount(host, "README.md")
    host.configure(
        f"""
        CODEREPOS |= {{
            "PRIVATE_GIT_HOSTS": [{server.host!r}], "INSECURE_HTTP_HOSTS": [{server.host!r}],
            "SANDBOX_BASE_PATH": str(BASE_DIR / "repos"),
        }}
        """
    )
    port = free_port()
    _, _, mounting, connecting, following = (
        lines(block)
        .replace(PUBLIC_URL, server.url("code.git"))
        .replace("ghp_…", TOKEN)
        .replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        .replace("runserver &", f"runserver --noreload {port} &")
        for block in blocks("README.md", "console")
    )
    status, history = following.splitlines()

    shell.type(mounting)
    wait_until(lambda: is_open(port), seconds=60, what="a web server")
    answer = json.loads(shell.type(connecting))
    assert answer["clone_status"] == "PENDING"

    def completed() -> str | None:
        told = json.loads(shell.type(status, REPO_ID=answer["repo_id"]))
        assert told["clone_status"] != "FAILED", told
        return told["sandbox_path"] if told["clone_status"] == "COMPLETED" else None

    sandbox_path = wait_until(completed, seconds=60, what="the clone")
    assert "the first one" in shell.type(history, SANDBOX_PATH=sandbox_path)


@pytest.mark.slow
def test_page_on_mounting(host: HostProject, tmp_path: Path) -> None:
    """Its settings, addresses and policy work together, and no check has anything to say."""
    model = """
    class Team(models.Model):
        users = models.ManyToManyField("auth.User")
    class Project(models.Model):
        team = models.ForeignKey(Team, models.CASCADE)
    """
    host.add_app("shop", model)
    mount(host, "docs/mounting.md")
    # The page has several queues to choose from; each other one has a contract test.
    host.configure('CODEREPOS = {**CODEREPOS, "QUEUE": "coderepos.queues.django_q.DjangoQ"}\n')
    host.environment["MASTER_ENCRYPTION_KEY"] = host.manage("coderepos_generate_key").strip()

    host.manage("makemigrations", "shop")
    assert "coderepos." not in host.manage("check")
    host.manage("migrate")
    host.python(
        """
        from django.contrib.auth.models import User
        from django.urls import reverse
        from coderepos import access
        from shop.models import Project, Team
        user = User.objects.create_user("u")
        project = Project.objects.create(team=Team.objects.create())
        assert not access.visible_projects(user).exists()
        project.team.users.add(user)
        assert access.visible_projects(user).get() == project
        """
    )


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_python_that_is_printed_is_python(page: str) -> None:
    """No block has a hole in it."""
    for block in blocks(page, "python"):
        compile(block, page, "exec")
