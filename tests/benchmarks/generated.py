"""Repositories of known shapes, made on the spot by ``git fast-import``."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from tests.support.git import git

WORDS = [f"{first}{second}" for first in ("get", "set", "read", "write", "make", "find") for second in range(200)]


def generate(folder: Path) -> Iterator[Path]:
    """Make and yield one bare repository of each shape."""
    yield _repository(folder / "many-small-files.git", _small_files)
    yield _repository(folder / "large-blobs.git", _large_blobs)
    yield _repository(folder / "deep-history.git", _deep_history)
    path = _repository(folder / "many-refs.git", _small_files)
    commit = git("rev-parse", "HEAD", cwd=path)
    refs = "".join(f"create refs/pull/{number}/head {commit}\n" for number in range(5_000))
    subprocess.run(["git", "update-ref", "--stdin"], cwd=path, input=refs.encode(), check=True)
    git("pack-refs", "--all", cwd=path)
    yield path


def growing(folder: Path) -> Iterator[Path]:
    """Make and yield repositories of about 1, 10, 50 and 100 MB of pack, all of one shape."""
    for size_mb in (1, 10, 50, 100):
        yield _repository(folder / f"grown-{size_mb}-mb.git", partial(_grown, size_mb=size_mb))


def _repository(path: Path, write: Callable[[IO[bytes]], None]) -> Path:
    git("init", "--quiet", "--bare", "--initial-branch=main", path)
    process = subprocess.Popen(["git", "fast-import", "--quiet"], cwd=path, stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin as stream:
        write(stream)
    assert process.wait() == 0
    git("repack", "-adq", cwd=path)
    return path


def _commit(stream: IO[bytes], number: int, files: dict[str, bytes]) -> None:
    stream.write(
        b"commit refs/heads/main\ncommitter a <a@example.org> %d +0000\ndata 1\nm\n" % (1_700_000_000 + number)
    )
    for name, content in files.items():
        stream.write(b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(content), content))


def _text(chance: random.Random, lines: int) -> bytes:
    return "".join(
        f"    {chance.choice(WORDS)}({chance.choice(WORDS)}, {chance.random()})\n" for _ in range(lines)
    ).encode()


def _small_files(stream: IO[bytes]) -> None:
    chance = random.Random(1)
    _commit(stream, 0, {f"d{n % 97}/f{n}.py": _text(chance, 60) for n in range(12_000)})
    for number in range(1, 200):
        _commit(stream, number, {f"d{n % 97}/f{n}.py": _text(chance, 60) for n in chance.sample(range(12_000), 5)})


def _large_blobs(stream: IO[bytes]) -> None:
    chance = random.Random(2)
    for number in range(12):
        _commit(stream, number, {f"blob{number}": chance.randbytes(2_000_000), "notes": _text(chance, 20_000)})


def _deep_history(stream: IO[bytes]) -> None:
    chance = random.Random(3)
    files = {f"m{n % 7}/f{n}.py": _text(chance, 200).splitlines(keepends=True) for n in range(120)}
    for number in range(12_000):
        name = chance.choice(list(files))
        for line in chance.sample(range(200), 3):
            files[name][line] = _text(chance, 1)
        _commit(stream, number, {name: b"".join(files[name])})


def _grown(stream: IO[bytes], size_mb: int) -> None:
    chance = random.Random(4)
    for number in range(size_mb * 10):
        _commit(stream, number, {f"d{number % 13}/f{number}_{n}.py": _text(chance, 250) for n in range(25)})
