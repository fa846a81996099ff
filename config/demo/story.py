"""What the demo plays: a user connects a repository, watches the clone and looks into the sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from dulwich.repo import Repo

from config.demo.console import Console
from config.demo.installation import Installation
from config.demo.processes import DemoFailed

POLL_SECONDS: Final = 0.2
LISTED_ENTRIES: Final = 12
LISTED_COMMITS: Final = 5
FINAL: Final = frozenset({"COMPLETED", "FAILED"})


@dataclass(frozen=True)
class Wish:
    """A repository to connect."""

    git_url: str
    access_token: str | None = field(default=None, repr=False)
    ref: str | None = None

    def body(self, project_id: str) -> dict[str, Any]:
        """Return the body of the request."""
        optional = {"access_token": self.access_token, "ref": self.ref}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"git_url": self.git_url, "project_id": project_id, **given}


def clone(installation: Installation, console: Console, wish: Wish, *, timeout_seconds: float) -> dict[str, Any]:
    """Connect a repository, follow its clone to the end and show the sandbox; return its last status."""
    console.step("The user connects a repository: POST /api/v1/code/connect")
    shown = {**wish.body(installation.project_id), **({"access_token": "***"} if wish.access_token else {})}
    console.request(shown)
    answer = installation.api.post("/connect", wish.body(installation.project_id))
    console.answer(answer.status, answer.body)
    if answer.status != HTTPStatus.CREATED:
        raise DemoFailed("The repository was not accepted; the answer above says why.")

    console.step("A worker clones it: GET /api/v1/code/repos/{repo_id}/status, until it is done")
    status = _follow(installation, console, answer.body["repo_id"], timeout_seconds=timeout_seconds)
    if status["clone_status"] != "COMPLETED":
        raise DemoFailed(f"The clone failed: {status['error_message']}\n{installation.tails()}")

    console.step(f"The sandbox: {status['repository_size_mb']} MB, read-only")
    show_sandbox(console, Path(status["sandbox_path"]))
    return status


def show_refusal(
    installation: Installation, console: Console, wish: Wish, *, because: str, status: HTTPStatus, error: str
) -> None:
    """Try to connect what has to be refused, and show the answer."""
    console.step(because)
    answer = installation.api.post("/connect", wish.body(installation.project_id))
    console.answer(answer.status, answer.body)
    if answer.status != status or answer.body["detail"]["error"] != error:
        raise DemoFailed(f"The answer should have been {status.value} {error}.")


def show_sandbox(console: Console, sandbox: Path) -> None:
    """List the working tree and the history of a sandbox; ``sandbox`` is the API's ``sandbox_path``."""
    entries = list(_tree(sandbox))
    console.line(f"{sandbox}/")
    for entry in entries[:LISTED_ENTRIES]:
        console.line(entry)
    if len(entries) > LISTED_ENTRIES:
        console.line(f"... and {len(entries) - LISTED_ENTRIES} more")

    console.line()
    console.line(f"git --git-dir={sandbox.parent / 'git'} log")
    with Repo(str(sandbox.parent / "git")) as repository:
        for step in repository.get_walker(max_entries=LISTED_COMMITS):
            commit = step.commit
            when = datetime.fromtimestamp(commit.commit_time, UTC)
            subject = commit.message.decode(errors="replace").partition("\n")[0]
            console.line(f"{commit.id.decode()[:10]}  {when:%Y-%m-%d}  {subject}")


def _follow(installation: Installation, console: Console, repo_id: str, *, timeout_seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_seconds
    try:
        while True:
            answer = installation.api.get(f"/repos/{repo_id}/status")
            if answer.status != HTTPStatus.OK:
                raise DemoFailed(f"The status could not be read: HTTP {answer}")
            status: dict[str, Any] = answer.body
            console.bar(_percent(status), status["progress_message"])
            if status["clone_status"] in FINAL:
                return status
            if status["next_attempt_at"]:
                raise DemoFailed(
                    f"{status['progress_message']}; the demo does not wait for it.\n{installation.tails()}"
                )
            installation.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"The clone took more than {timeout_seconds:g} s.\n{installation.tails()}")
            time.sleep(POLL_SECONDS)
    finally:
        console.end_bar()


def _percent(status: dict[str, Any]) -> float | None:
    if status["clone_status"] in FINAL:
        return 100
    progress = status["progress"]
    return progress["percent"] if progress else None


def _tree(sandbox: Path) -> Iterator[str]:
    for path in sorted(sandbox.rglob("*")):
        name = path.relative_to(sandbox)
        information = path.lstat()
        mode = oct(information.st_mode)[-4:]
        match path:
            case _ if path.is_symlink():
                yield f"{mode} {'link':>10}  {name} -> {path.readlink()}"
            case _ if path.is_dir():
                yield f"{mode} {'':>10}  {name}/"
            case _:
                yield f"{mode} {information.st_size:>10,}  {name}"
