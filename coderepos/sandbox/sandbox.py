"""The sandbox of one repository on disk, and all changes of its state.

::

    {base}/.coderepos-root                    id of the installation that the root belongs to
    {base}/{project}/{repository}/
        repository -> current/tree            constant
        git        -> current/git             constant
        current    -> versions/{token}        the only link that ever changes, in one rename
        versions/{token}/tree, git            read-only
        .incoming-{token}/                    where a running job builds
        .removing-{token}/                    being removed

Every step is one rename or one link, so that a process killed between two steps leaves nothing half visible. All
directories are opened by descriptors from the base, without following links.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from coderepos.exceptions import SandboxRefused, SandboxRootMissing
from coderepos.sandbox.directories import (
    LINK_DRAFT,
    age_seconds,
    ages_seconds,
    make_directory,
    open_directory,
    point_link,
    remove_if_empty,
    remove_link,
    set_mode,
    sync_if_possible,
    translate_errors,
)
from coderepos.sandbox.marker import read_marker
from coderepos.sandbox.removal import remove_tree
from coderepos.sandbox.root import NAME, SandboxRoot
from coderepos.sandbox.versions import CURRENT, REMOVING, VERSIONS, current_token, is_complete, remove_versions

LINKS: Final = {"repository": f"{CURRENT}/tree", "git": f"{CURRENT}/git"}
"""Links of a sandbox that never change."""

_ATTEMPTS: Final = 3
_INCOMING: Final = ".incoming-"


class Sandbox:
    """The directory of one repository.

    A *token* is the lease token of a job: it names what the job builds, and later the published version.

    :raises SandboxRefused: a name is not a valid path segment.
    """

    def __init__(self, root: SandboxRoot, project_key: str, repository_id: str) -> None:
        if not NAME.match(project_key) or not NAME.match(repository_id):
            raise SandboxRefused
        self.root: Final = root
        self.project_key: Final = project_key
        self.repository_id: Final = repository_id

    @property
    def path(self) -> Path:
        """Directory of the sandbox."""
        return self.root.path / self.project_key / self.repository_id

    @property
    def repository_path(self) -> Path:
        """Constant path of the working tree, which readers use."""
        return self.path / "repository"

    def create_incoming(self, token: str) -> Path:
        """Create the empty directory that a job builds in, and return its path.

        :raises SandboxRootMissing: the root has lost its marker: its mount is gone.
        :raises SandboxRefused: something is in the way.
        :raises SandboxFull: there is no space.
        """
        name = _INCOMING + _valid_token(token)
        with translate_errors(self.path):
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    self._make_incoming(name)
                    break
                except FileNotFoundError:
                    # Another process has removed the last sandbox of the project, and the project's directory.
                    if not attempts_left:
                        raise
        return self.path / name

    def _make_incoming(self, name: str) -> None:
        with self._opened(create=True) as directory:
            os.mkdir(name, 0o700, dir_fd=directory)
            with open_directory(name, parent=directory) as incoming:
                set_mode(incoming, self.root.directory_mode)

    def finish_incoming(self, token: str) -> None:
        """Turn what a job built into a read-only version; no reader sees it before :meth:`activate`.

        :raises SandboxRefused: something is in the way.
        :raises SandboxFull: there is no space.
        """
        source = _INCOMING + _valid_token(token)
        with translate_errors(self.path), self._opened(create=False) as directory:
            make_directory(VERSIONS, parent=directory, mode=self.root.directory_mode)
            with open_directory(VERSIONS, parent=directory) as versions:
                os.rename(source, token, src_dir_fd=directory, dst_dir_fd=versions)
                # Only now: only root can move a directory to another parent that its owner can't write to.
                with open_directory(token, parent=versions) as version:
                    set_mode(version, self.root.published_mode)
                    os.fsync(version)
                os.fsync(versions)
            os.fsync(directory)

    def activate(self, token: str) -> None:
        """Make a published version the one that readers see, atomically.

        :raises SandboxRefused: the version is not there, or something is in the way.
        :raises SandboxFull: there is no space.
        """
        target = f"{VERSIONS}/{_valid_token(token)}"
        with translate_errors(self.path), self._opened(create=False) as directory:
            with open_directory(VERSIONS, parent=directory) as versions, open_directory(token, parent=versions):
                _point_constant_links(directory)
                point_link(CURRENT, target, directory)
            sync_if_possible(directory)

    def current(self) -> str | None:
        """Return the token of the version that readers see, or ``None`` without one."""
        with self._if_exists() as directory:
            return None if directory is None else current_token(directory)

    def has_links(self) -> bool:
        """Return whether the links are there that never change."""
        with self._if_exists() as directory:
            return directory is not None and LINKS.keys() <= {*os.listdir(directory)}

    def versions(self) -> dict[str, float]:
        """Return the age in seconds of every published version, by token."""
        with self._if_exists() as directory:
            return {} if directory is None else ages_seconds(directory, VERSIONS)

    def incomings(self) -> dict[str, float]:
        """Return the age in seconds of everything that jobs are building, by token."""
        with self._if_exists() as directory:
            ages = {} if directory is None else ages_seconds(directory)
        return {name.removeprefix(_INCOMING): age for name, age in ages.items() if name.startswith(_INCOMING)}

    def discard_incoming(self, token: str) -> None:
        """Remove what a job has built so far, if anything."""
        incoming = _INCOMING + _valid_token(token)
        with self._if_exists() as directory:
            if directory is not None:
                remove_tree(incoming, parent=directory)

    def tokens(self) -> set[str]:
        """Return the tokens of everything that jobs have built or are building here, or that is being removed."""
        with self._if_exists() as directory:
            if directory is None:
                return set()
            names = [name for name in ages_seconds(directory) if name.startswith((_INCOMING, REMOVING))]
            temporary = {name.removeprefix(_INCOMING).removeprefix(REMOVING) for name in names}
            return {token for token in temporary | ages_seconds(directory, VERSIONS).keys() if NAME.match(token)}

    def discard(self, token: str) -> bool:
        """Remove what a job built, published or not, unless readers see it.

        The link is never removed for one version: another process may have set it since it was read.

        :returns: whether it was removed or did not exist.
        """
        self.discard_incoming(token)
        with self._if_exists() as directory:
            if directory is None:
                return True
            if current_token(directory) == token:
                return False
            remove_tree(REMOVING + token, parent=directory)
            remove_versions({token}, directory)
        return True

    def retract(self, token: str) -> None:
        """Remove what a job built, although readers may see it: the database says that it is not published.

        A link that leads to another version stays, also where that is set at this moment.
        """
        with self._if_exists() as directory:
            if directory is not None:
                remove_link(CURRENT, f"{VERSIONS}/{_valid_token(token)}", directory)
        self.discard(token)

    def has_version(self, token: str) -> bool:
        """Return whether there is a published version with this token that has a working tree and Git data."""
        with self._if_exists() as directory, suppress(FileNotFoundError):
            if directory is not None:
                with open_directory(VERSIONS, parent=directory) as versions:
                    return is_complete(_valid_token(token), versions)
        return False

    @contextmanager
    def opened_version(self, token: str) -> Iterator[int]:
        """Open the directory of a published version for the length of a ``with`` block.

        :raises FileNotFoundError: there is none.
        :raises SandboxRefused: something is in the way.
        """
        with (
            self._opened(create=False) as directory,
            open_directory(VERSIONS, parent=directory) as versions,
            open_directory(_valid_token(token), parent=versions) as version,
        ):
            yield version

    def sweep(
        self,
        *,
        keep: Collection[str],
        older_than_seconds: float,
        keep_current: bool = True,
        is_known: bool | None = None,
        found: Collection[str] | None = None,
    ) -> int:
        """Remove old versions and incoming directories that the database does not know; return how many.

        :param keep: tokens that the database knows, published or building.
        :param keep_current: whether the version that readers see stays too. After a commit whose outcome is unknown,
            the link may be ahead of the database.
        :param is_known: whether the database knows the repository; if not, the whole sandbox is removed once everything
            in it is old. By default, whether there is anything to keep.
        :param found: names that were there before the database was asked. Others stay, however old they are: a job may
            have published one while the caller was frozen.
        """
        is_known = bool(keep) if is_known is None else is_known
        with self._if_exists() as directory:
            if directory is None:
                return 0
            kept = {*keep, current_token(directory)} if is_known and keep_current else set(keep)
            all_is_old = age_seconds(os.fstat(directory)) > older_than_seconds
            old, old_versions = (
                {name for name, age in ages.items() if age > older_than_seconds and (found is None or name in found)}
                for ages in (ages_seconds(directory), ages_seconds(directory, VERSIONS))
            )
            temporaries = {name for name in old if name.removeprefix(_INCOMING) not in kept}
            versions = old_versions - kept
            if not is_known and current_token(directory) in versions:
                remove_tree(CURRENT, parent=directory)
            removed = _remove_temporaries(temporaries, directory) + remove_versions(versions, directory)
        # A job may start in the sandbox of a known repository at any moment, so there entries are removed by name only.
        if all_is_old and not is_known and not self.versions() and not self.incomings():
            self.remove()
        return removed

    def remove_empty(self, *, older_than_seconds: float = 0) -> None:
        """Remove the directory of a repository that the database has, with its constant links, if nothing is in it.

        A job may begin in it meanwhile. It makes the directory anew, or keeps it, and then the links are set again.
        """
        with self._if_exists() as directory:
            if directory is None or age_seconds(os.fstat(directory)) < older_than_seconds:
                return
            if not {*os.listdir(directory)} <= {VERSIONS, *LINKS}:
                return
            remove_if_empty(VERSIONS, directory)
            if {*os.listdir(directory)} <= LINKS.keys():
                for name in LINKS:
                    remove_tree(name, parent=directory)
        self._remove_if_empty()
        with self._if_exists() as directory:
            if directory is not None:
                _point_constant_links(directory)

    def _remove_if_empty(self) -> None:
        with translate_errors(self.path), suppress(FileNotFoundError), self.root.opened() as base:
            with open_directory(self.project_key, parent=base) as project:
                remove_if_empty(self.repository_id, project)
            remove_if_empty(self.project_key, base)

    def remove(self) -> None:
        """Remove the sandbox if it exists, and the project's directory with the last of its sandboxes."""
        with self._if_exists() as directory:
            if directory is None:
                return
            # Readers lose everything at once, not file by file.
            remove_tree(CURRENT, parent=directory)
        with translate_errors(self.path), suppress(FileNotFoundError), self.root.opened() as base:
            with open_directory(self.project_key, parent=base) as project:
                remove_tree(self.repository_id, parent=project)
            remove_if_empty(self.project_key, base)

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        mode = self.root.directory_mode
        with self.root.opened() as base:
            if create:
                if read_marker(base) is None:
                    raise SandboxRootMissing
                make_directory(self.project_key, parent=base, mode=mode)
            with open_directory(self.project_key, parent=base) as project:
                if create:
                    make_directory(self.repository_id, parent=project, mode=mode)
                with open_directory(self.repository_id, parent=project) as directory:
                    yield directory

    @contextmanager
    def _if_exists(self) -> Iterator[int | None]:
        """Open the directory for the length of a ``with`` block; yield ``None`` if it does not exist."""
        with translate_errors(self.path), ExitStack() as opened:
            try:
                directory: int | None = opened.enter_context(self._opened(create=False))
            except FileNotFoundError:
                directory = None
            yield directory


def sandboxes(root: SandboxRoot) -> list[Sandbox]:
    """Return every sandbox of a root."""
    return [Sandbox(root, project_key, repository_id) for project_key, repository_id in root.names()]


def remove_root(root: SandboxRoot, root_ids: Collection[str]) -> int:
    """Remove all sandboxes of a root, its marker, and the root itself if it is empty then; a missing root is fine.

    :param root_ids: the ids of this installation.
    :returns: how many sandboxes there were.
    :raises SandboxRefused: the marker has another id or another owner; nothing was removed.
    """
    marker = root.read_marker()
    if marker is None:
        return 0
    if marker not in root_ids:
        raise SandboxRefused("The sandbox root belongs to another installation; it was not touched.")
    found = sandboxes(root)
    for sandbox in found:
        sandbox.remove()
    root.remove()
    return len(found)


def _point_constant_links(directory: int) -> None:
    for name, constant in LINKS.items():
        point_link(name, constant, directory)


def _remove_temporaries(names: Collection[str], directory: int) -> int:
    removed = [name for name in names if name.startswith((_INCOMING, REMOVING, LINK_DRAFT))]
    return sum(remove_tree(name, parent=directory) for name in removed)


def _valid_token(token: str) -> str:
    if not NAME.match(token):
        raise SandboxRefused
    return token
