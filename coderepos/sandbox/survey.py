"""Lists the sandboxes of a root and their versions, quickly: without ages and sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coderepos.exceptions import CodeReposError
from coderepos.sandbox.directories import open_directory, translate_errors
from coderepos.sandbox.root import SandboxRoot, directory_names
from coderepos.sandbox.sandbox import LINKS, Sandbox
from coderepos.sandbox.versions import CURRENT, VERSIONS, current_token, is_complete

_PERMANENT: Final = frozenset({*LINKS, CURRENT, VERSIONS})


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSnapshot:
    """What one sandbox contains."""

    sandbox: Sandbox
    current: str | None
    """Token of the version that readers see."""

    versions: frozenset[str]
    complete: frozenset[str]
    """The versions that have both a working tree and Git data."""

    temporaries: frozenset[str]
    """Names of what is there besides versions and links."""

    has_links: bool
    """Whether the links are there that never change."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was built in it, or all of that is gone."""
        return self.current is None and not self.versions and not self.temporaries


class Survey:
    """One pass over all sandboxes of a root; a sandbox that can't be read is logged and skipped."""

    def __init__(self, root: SandboxRoot) -> None:
        self._root: Final = root
        self._unreadable: Final[set[Path]] = set()

    def is_unreadable(self, sandbox: Sandbox) -> bool:
        """Return whether a sandbox, or the directory of its project, could not be read."""
        return not self._unreadable.isdisjoint((sandbox.path, sandbox.path.parent))

    def sandboxes(self) -> Iterator[SandboxSnapshot]:
        """Yield a snapshot of every sandbox that can be read.

        :raises CodeReposError: the root itself can't be read.
        """
        with translate_errors(self._root.path), self._root.opened() as base:
            projects = directory_names(base)
            for project_key in projects:
                with (
                    self._noting_errors(self._root.path / project_key),
                    open_directory(project_key, parent=base) as project,
                ):
                    for repository_id in directory_names(project):
                        sandbox = Sandbox(self._root, project_key, repository_id)
                        snapshot = None
                        with (
                            self._noting_errors(sandbox.path),
                            open_directory(repository_id, parent=project) as directory,
                        ):
                            snapshot = _snapshot(sandbox, directory)
                        if snapshot is not None:
                            yield snapshot

    @contextmanager
    def _noting_errors(self, path: Path) -> Iterator[None]:
        try:
            # Others may remove sandboxes meanwhile.
            with translate_errors(path), suppress(FileNotFoundError):
                yield
        except CodeReposError:
            self._unreadable.add(path)


def _snapshot(sandbox: Sandbox, directory: int) -> SandboxSnapshot:
    names = set(os.listdir(directory))
    versions: list[str] = []
    complete: list[str] = []
    if VERSIONS in names:
        with open_directory(VERSIONS, parent=directory) as inside:
            versions = os.listdir(inside)
            complete = [name for name in versions if is_complete(name, inside)]
    return SandboxSnapshot(
        sandbox=sandbox,
        current=current_token(directory) if CURRENT in names else None,
        versions=frozenset(versions),
        complete=frozenset(complete),
        temporaries=frozenset(names - _PERMANENT),
        has_links=LINKS.keys() <= names,
    )
