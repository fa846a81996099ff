"""The search for secrets: every form that one may take, and every place where one may lie."""

from __future__ import annotations

import base64
import json
import os
import pickle
import secrets
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from django.db import connection
from django_q.models import OrmQ, Task

from tests.support.processes import descendants

MOST_BYTES = 20 * 10**6
"""Larger files are of somebody else."""

SAMPLE_SECONDS = 0.02

Places = dict[str, bytes]
"""Content by the name of where it was found."""


def new_token() -> str:
    """Return a token that differs in each of its forms."""
    return f'ghp_{secrets.token_hex(16)}"&%+/=<>?'


def forms_of(secret: bytes) -> dict[str, bytes]:
    """Return every form of a secret by its name; of base64 the characters that the secret alone decides."""
    secret = bytes(secret)  # of a type that hides them, forms would be those of a placeholder
    percent = quote(secret, safe="")
    forms = {
        "raw": secret,
        "percent": percent.encode(),
        "percent, path": quote(secret).encode(),
        "percent, lower": "".join(
            f"%{part[:2].lower()}{part[2:]}" if number else part for number, part in enumerate(percent.split("%"))
        ).encode(),
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "JSON": json.dumps(secret.decode("latin-1"))[1:-1].encode(),
        "repr": repr(secret)[2:-1].encode(),
    }
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        fixed = encoded[(shift * 8 + 5) // 6 : (shift + len(secret)) * 8 // 6]
        forms |= {f"base64 {shift}": fixed, f"base64url {shift}": fixed.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


def hunt(places: Mapping[str, bytes], hidden: Mapping[str, bytes]) -> set[tuple[str, str, str]]:
    """Return where which secret was found in which form."""
    found = set()
    for name, secret in hidden.items():
        for form, needle in forms_of(secret).items():
            found |= {(place, name, form) for place, content in places.items() if needle in content}
    return found


def database() -> Places:
    """Return every row of every table, and where the database is a file, that file with what was deleted in it."""
    places: Places = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608  a name of the database's own
            for number, row in enumerate(cursor.fetchall()):
                places[f"{table} {number}"] = b"\0".join(map(_bytes, row))
    if connection.vendor == "sqlite":
        for suffix in ("", "-wal", "-journal"):
            path = f"{connection.settings_dict['NAME']}{suffix}"
            # By another process: closing the file would end the locks that SQLite holds on it in this one.
            places[path] = subprocess.run(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return places


def queue() -> Places:
    """Return what waits in the queue and what its tasks returned, with their pickles decoded."""
    places = {f"queued {row.pk}": _decoded(row.task) for row in OrmQ.objects.all()}
    for task in Task.objects.all():
        places[f"task {task.pk}"] = _decoded((task.func, task.args, task.kwargs, task.result))
    return places


def files(root: Path) -> Places:
    """Return content and names of everything below a folder; what vanishes meanwhile is left out."""
    return dict(_files(root))


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder, name)
            yield f"{path} (name)", os.fsencode(name)
            try:
                if path.is_symlink():
                    yield f"{path} (target)", os.fsencode(os.readlink(path))
                elif path.is_file() and path.stat().st_size < MOST_BYTES:
                    yield str(path), path.read_bytes()
            except OSError:
                continue


def new_in_shared_directories(before: set[Path]) -> Places:
    """Return what lies in the directories that all processes share, and did not before."""
    places: Places = {}
    for path in shared_entries() - before:
        if path.is_dir():
            places |= files(path)
        elif path.is_file() and not path.is_symlink():
            try:
                places[str(path)] = path.read_bytes()
            except OSError:
                continue
    return places


def shared_entries() -> set[Path]:
    """Return what lies in the directories that all processes share, without those of the tests."""
    ours = ("pytest-of", "coderepos-test-", "coderepos-pg-")
    return {
        path
        for folder in ("/tmp", "/var/tmp", "/dev/shm")
        for path in Path(folder).iterdir()
        if not path.name.startswith(ours)
    }


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return str(value).encode("utf-8", "surrogateescape")


def _decoded(value: object) -> bytes:
    return repr(value).encode() + b"\0" + pickle.dumps(value)


class ProcessWatch:
    """Reads name, arguments and environment of every process below this one, again and again while it is open."""

    def __init__(self) -> None:
        self.places: Places = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            for pid in descendants(os.getpid()):
                for name in ("comm", "cmdline", "environ"):
                    try:
                        content = Path(f"/proc/{pid}/{name}").read_bytes()
                    except OSError:
                        continue
                    if content:
                        # Before and after exec one process has several of each.
                        self.places[f"{name} of {pid}, {hash(content)}"] = content

    def saw(self, name: bytes) -> bool:
        """Return whether a process of this name was seen."""
        return any(place.startswith("comm ") and content == name + b"\n" for place, content in self.places.items())


def answer(body: Any, headers: Any) -> bytes:
    """Return an answer of the API as one text."""
    return f"{json.dumps(body)}\n{headers}".encode()
