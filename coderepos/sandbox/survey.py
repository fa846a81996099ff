"""A quick look at every sandbox of a root: what is there, without a question about ages or sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coderepos.exceptions import CodeReposError
from coderepos.sandbox.directories import opened_folder, translated
from coderepos.sandbox.root import SandboxRoot, names_of_folders
from coderepos.sandbox.sandbox import LINKS, Sandbox
from coderepos.sandbox.versions import CURRENT, VERSIONS, is_whole, shown_token

_PERMANENT: Final = frozenset({*LINKS, CURRENT, VERSIONS})


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of one sandbox."""

    sandbox: Sandbox
    shown: str | None
    """Token of the version that readers see."""

    versions: frozenset[str]
    whole: frozenset[str]
    """Those versions that have both a working tree and Git data."""

    temporary: bool
    """Whether there is anything beside versions and links."""


class Survey:
    """One look at all sandboxes of a root; what can't be looked at costs a line in the log."""

    def __init__(self, root: SandboxRoot) -> None:
        self._root: Final = root
        self._unreadable: Final[set[Path]] = set()

    def is_unreadable(self, sandbox: Sandbox) -> bool:
        """Return whether a sandbox, or the directory of its project, could not be looked at."""
        return not self._unreadable.isdisjoint((sandbox.path, sandbox.path.parent))

    def sandboxes(self) -> Iterator[Seen]:
        """Yield what is seen of every sandbox.

        :raises CodeReposError: the root itself can't be looked at.
        """
        with translated(self._root.path), self._root.opened() as base:
            projects = names_of_folders(base)
            for project_key in projects:
                with self._noted(self._root.path / project_key), opened_folder(project_key, parent=base) as project:
                    for repository_id in names_of_folders(project):
                        sandbox = Sandbox(self._root, project_key, repository_id)
                        seen = None
                        with self._noted(sandbox.path), opened_folder(repository_id, parent=project) as folder:
                            seen = _look(sandbox, folder)
                        if seen is not None:
                            yield seen

    @contextmanager
    def _noted(self, place: Path) -> Iterator[None]:
        try:
            # What is gone meanwhile was somebody's to remove.
            with translated(place), suppress(FileNotFoundError):
                yield
        except CodeReposError:
            self._unreadable.add(place)


def _look(sandbox: Sandbox, folder: int) -> Seen:
    names = set(os.listdir(folder))
    versions: list[str] = []
    whole: list[str] = []
    if VERSIONS in names:
        with opened_folder(VERSIONS, parent=folder) as inside:
            versions = os.listdir(inside)
            whole = [name for name in versions if is_whole(name, inside)]
    return Seen(
        sandbox=sandbox,
        shown=shown_token(folder) if CURRENT in names else None,
        versions=frozenset(versions),
        whole=frozenset(whole),
        temporary=not names <= _PERMANENT,
    )
