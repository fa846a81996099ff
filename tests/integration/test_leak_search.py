"""The search for secrets finds one in every form and place that it looks at."""

from __future__ import annotations

import base64
import logging
import secrets
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from django_q.models import Task
from django_q.tasks import async_task

from coderepos.crypto.secret import Secret
from coderepos.hidden import HiddenBytes
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job
from coderepos.projects.models import Project
from tests.support.cluster import wait_until
from tests.support.leaks import Places, ProcessWatch, answer, database, files, forms_of, hunt, new_token, queue


@pytest.fixture
def planted(project: Project, tmp_path: Path, logs: Path) -> tuple[Places, dict[str, bytes]]:
    """Every place, with every form of a secret planted in each."""
    secret = new_token().encode()
    forms = forms_of(secret)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    repository = CodeRepository.objects.create(project=project, git_url="https://h/r", token_ciphertext=Secret(""))
    places: Places = {}
    programs = []
    with ProcessWatch() as watch:
        for number, (form, needle) in enumerate(forms.items()):
            text = needle.decode()
            Job.objects.create(repository=repository, state="FAILED", error_message=text)
            AuditEntry.objects.record(AuditEvent.CONNECT_REJECTED, details={form: number})
            async_task("nobody.does_this", text)
            Task.objects.create(
                id=f"{number:032}", name=form, func="f", args=(), result={form: text}, started="2024-01-01T00:00Z",
                stopped="2024-01-01T00:00Z",
            )  # fmt: skip
            (tree / "deep" / f"{number}").write_bytes(b"\0" + needle)
            (tree / f"link{number}").symlink_to(text)
            logging.getLogger("anybody").debug("here: %s", text)
            wait = [sys.executable, "-c", "input()"]
            programs += [
                subprocess.Popen([*wait, text], stdin=subprocess.PIPE),
                subprocess.Popen(wait, stdin=subprocess.PIPE, env={"VALUE": text}),
            ]

        def seen() -> bool:
            return all(
                any(name.startswith(kind) and needle in content for name, content in list(watch.places.items()))
                for needle in forms.values()
                for kind in ("cmdline", "environ")
            )

        wait_until(seen, seconds=30, what="a look at every process")
    for program in programs:
        program.communicate(b"\n")
    places |= {f"process: {name}": content for name, content in watch.places.items()}
    places |= {f"database: {name}": content for name, content in database().items()}
    places |= {f"queue: {name}": content for name, content in queue().items()}
    places |= {f"files: {name}": content for name, content in files(tree).items()}
    places |= {f"logs: {path.name}": path.read_bytes() for path in logs.iterdir()}
    places["answer: 1"] = answer({"detail": {"message": secret.decode()}}, "")
    return places, {"planted": secret}


def test_the_hunt_finds_what_is_planted(planted: tuple[Places, dict[str, bytes]]) -> None:
    """The control: in every kind of place every form is found."""
    places, hidden = planted
    found = hunt(places, hidden)
    forms = set(forms_of(hidden["planted"]))

    for kind, where in {
        "process: cmdline": "process: cmdline",
        "process: environ": "process: environ",
        "jobs": "database: code_repo_jobs ",
        "queue": "queue: queued ",
        "results": "queue: task ",
        "files": "files: ",
        "log": "logs: web-plain.log",
    }.items():
        assert {form for place, _, form in found if place.startswith(where)} == forms, kind
    assert ("answer: 1", "planted", "JSON") in found


@pytest.mark.parametrize("length", [16, 32, 40, 41, 42])
def test_forms_are_those_that_encoders_write(length: int) -> None:
    """Whatever stands before and after a secret, its base64, hex and percent forms are recognised."""
    secret = secrets.token_bytes(length)
    for before in range(6):
        for after in range(4):
            whole = bytes(before) + secret + bytes(after)
            for name, text in {
                "base64": base64.b64encode(whole),
                "base64url": base64.urlsafe_b64encode(whole),
                "hex": whole.hex().encode(),
                "percent": quote(whole, safe="").encode(),
            }.items():
                assert any(form.startswith(name) for _, _, form in hunt({"x": text}, {"s": secret})), name


def test_hidden_bytes_are_looked_for_as_they_are() -> None:
    """Their own forms, not the placeholder that they show."""
    assert forms_of(HiddenBytes(b"\0secret")) == forms_of(b"\0secret")
