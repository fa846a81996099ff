"""``python manage.py demo``: connect, clone and read a repository, all on this machine."""

from __future__ import annotations

import getpass
import json
import logging
import os
import secrets
import shlex
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from config.demo import story
from config.demo.console import Console
from config.demo.git_server import GitServer
from config.demo.installation import TOKEN_VARIABLE, USER, Installation, running, temporary_directory
from config.demo.processes import DemoFailed
from config.demo.repositories import make_oversized, make_shop

BROUGHT: Final = (
    "ALLOWED_GIT_HOSTS",
    "GIT_CA_BUNDLE",
    "GIT_CLONE_TIMEOUT",
    "INSECURE_HTTP_HOSTS",
    "MAX_REPO_SIZE_MB",
    "PRIVATE_GIT_HOSTS",
    "PROBE_TIMEOUT",
)
"""Settings that a user with a repository of their own may bring along in the environment."""

LINE_BYTES_PER_SECOND: Final = 10_000_000
OVERSIZED_MIB: Final = 34
"""A shallow pack of this size counts for 3.5 times as much, and the limit is 100 MB."""


class Command(BaseCommand):
    """Play a repository end to end in a temporary installation: no internet, no ``git``, nothing left behind."""

    help = (
        "Sets up a temporary installation (SQLite, web server, workers), connects a repository over the API, follows "
        "the clone and shows the sandbox. Needs neither internet nor git, and removes everything at the end."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Offer a repository of the user's own instead of the built-in one."""
        parser.add_argument("--git-url", help="an https repository of your own instead of the built-in one")
        parser.add_argument(
            "--access-token",
            help=f"its token; '-' asks for it, so that it is not visible to others; or set {TOKEN_VARIABLE}",
        )
        parser.add_argument("--ref", help="branch or tag of --git-url instead of its default branch")
        parser.add_argument("--keep", action="store_true", help="leave web server and workers up until Ctrl-C")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the demo with readable failures."""
        if not options["git_url"] and (options["access_token"] or options["ref"]):
            raise CommandError("--access-token and --ref belong to --git-url.")
        access_token = _access_token(options["access_token"])
        console = Console(sys.stdout, secrets=(access_token,) if access_token else ())
        try:
            with _ended_in_order(), temporary_directory() as directory:
                if options["git_url"]:
                    wish = story.Wish(options["git_url"], access_token, options["ref"])
                    _own(console, directory, wish, keep=options["keep"])
                else:
                    _built_in(console, directory, keep=options["keep"])
        except DemoFailed as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("Interrupted; everything is stopped and removed.", returncode=130) from None
        console.step("Done: everything is stopped and removed.")


def _built_in(console: Console, directory: Path, *, keep: bool) -> None:
    token = secrets.token_urlsafe(24)
    console.step("Making two repositories and a Git server that insists on a token")
    logging.getLogger("dulwich").setLevel(logging.WARNING)
    git_directory = directory / "git"
    git_directory.mkdir()
    figures = make_shop(git_directory / "shop.git")
    make_oversized(git_directory / "data-set.git", size_mib=OVERSIZED_MIB)
    with GitServer(git_directory, token=token, bytes_per_second=LINE_BYTES_PER_SECOND) as server:
        console.line(f"{server.url('shop.git')}: {figures.commits} commits, {figures.branches} branches, a tag")
        console.line(f"{server.url('data-set.git')}: {OVERSIZED_MIB} MiB in one commit")
        console.line(f"It sends {LINE_BYTES_PER_SECOND / 10**6:g} MB/s, so that there is something to watch.")

        brought = {"PRIVATE_GIT_HOSTS": server.host, "INSECURE_HTTP_HOSTS": server.host}
        with _installed(console, directory, brought) as installation:
            started = time.monotonic()
            wish = story.Wish(server.url("shop.git"), token)
            status = story.clone(installation, console, wish, timeout_seconds=120)
            seconds = time.monotonic() - started
            story.show_refusal(
                installation,
                console,
                story.Wish(server.url("data-set.git"), token),
                because="A repository over the limit is refused before anything is stored",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                error="repository_too_large",
            )
            story.show_refusal(
                installation,
                console,
                story.Wish(server.url("shop.git"), "not-the-token", ref="release/1.0"),
                because="So is a token that the Git server does not accept",
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
                error="remote_auth_failed",
            )
            console.step("Summary")
            console.line(f"connected and cloned: {status['repository_size_mb']} MB in {seconds:.1f} s")
            console.line("refused: one over the limit (413), one with a wrong token (422)")
            if keep:
                _stay(console, installation, story.Wish(server.url("shop.git"), token, ref="release/1.0"))


def _own(console: Console, directory: Path, wish: story.Wish, *, keep: bool) -> None:
    brought = {name: os.environ[name] for name in BROUGHT if name in os.environ}
    with _installed(console, directory, brought) as installation:
        timeout_seconds = float(brought.get("GIT_CLONE_TIMEOUT") or 300) + 60
        story.clone(installation, console, wish, timeout_seconds=timeout_seconds)
        if keep:
            _stay(console, installation, wish)


@contextmanager
def _installed(console: Console, directory: Path, brought: dict[str, str]) -> Iterator[Installation]:
    console.step("Setting up a temporary installation: SQLite, gunicorn, two workers of django-q2")
    with running(directory, brought=brought) as installation:
        console.line(f"web server: {installation.url}")
        console.line(f"sandboxes:  {installation.sandboxes}")
        yield installation


def _stay(console: Console, installation: Installation, wish: story.Wish) -> None:
    authorization = f"-H 'Authorization: Token {installation.api_token}'"
    api = f"{installation.url}/api/v1/code"
    body = json.dumps(wish.body(installation.project_id))
    console.step("Everything stays up until Ctrl-C")
    console.line(f"admin:    {installation.url}/admin/  user {USER}, password {installation.password}")
    console.line(f"API:      {installation.url}/api/docs")
    console.line(f"curl {authorization} {api}/projects/{installation.project_id}/repos")
    console.line(f"curl {authorization} -H 'Content-Type: application/json' {api}/connect -d {shlex.quote(body)}")
    with suppress(KeyboardInterrupt):
        while True:
            installation.check()
            time.sleep(0.5)


def _access_token(option: str | None) -> str | None:
    if option != "-":
        return option or os.environ.get(TOKEN_VARIABLE) or None
    if sys.stdin.isatty():
        return getpass.getpass("Access token: ")
    return sys.stdin.readline().strip() or None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does, once: what follows is only cleaning up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
