"""The sandbox of one repository on disk, and the only moves between its states.

::

    {base}/.coderepos-root                    id of the installation that the root belongs to
    {base}/{project}/{repository}/
        repository -> current/tree            constant
        git        -> current/git             constant
        current    -> versions/{token}        the only link that ever changes, in one rename
        versions/{token}/tree, git            read-only
        .incoming-{token}/                    where a running job builds
        .removing-{token}/                    on its way out

Every step is one rename or one link, so that a process killed between two of them leaves nothing half visible. All
folders are reached by descriptors from the base, and no link on the way is followed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from coderepos.exceptions import SandboxRefused, SandboxRootMissing
from coderepos.sandbox.directories import (
    DRAFT,
    age_seconds,
    ages_seconds,
    make_folder,
    opened_folder,
    point_link,
    remove_if_empty,
    set_mode,
    sync_at_best,
    translated,
)
from coderepos.sandbox.marker import read_marker
from coderepos.sandbox.removal import remove_tree
from coderepos.sandbox.root import NAME, SandboxRoot
from coderepos.sandbox.versions import CURRENT, REMOVING, VERSIONS, is_whole, remove_versions, shown_token

LINKS: Final = {"repository": f"{CURRENT}/tree", "git": f"{CURRENT}/git"}
"""Links of a sandbox that never change."""

_TRIES: Final = 3
_INCOMING: Final = ".incoming-"


class Sandbox:
    """The folder of one repository; all names in it are ours.

    A *token* is the lease token of a job: it names what the job builds, and later the published version.

    :raises SandboxRefused: a name could not be a path segment of its own.
    """

    def __init__(self, root: SandboxRoot, project_key: str, repository_id: str) -> None:
        if not NAME.match(project_key) or not NAME.match(repository_id):
            raise SandboxRefused
        self.root: Final = root
        self.project_key: Final = project_key
        self.repository_id: Final = repository_id

    @property
    def path(self) -> Path:
        """Folder of the sandbox."""
        return self.root.path / self.project_key / self.repository_id

    @property
    def repository_path(self) -> Path:
        """Constant path of the working tree: what users and readers are told."""
        return self.path / "repository"

    def incoming(self, token: str) -> Path:
        """Create the empty folder that a job builds in, and return its path.

        :raises SandboxRootMissing: the root has lost its marker since it was prepared: its mount is gone.
        :raises SandboxRefused: something is in the way.
        :raises SandboxFull: there is no room.
        """
        name = _INCOMING + _checked(token)
        with translated(self.path):
            for tries_left in reversed(range(_TRIES)):
                try:
                    self._make_incoming(name)
                    break
                except FileNotFoundError:
                    # Whoever removed the last sandbox of the project took its folder along.
                    if not tries_left:
                        raise
        return self.path / name

    def _make_incoming(self, name: str) -> None:
        with self._opened(create=True) as folder:
            os.mkdir(name, 0o700, dir_fd=folder)
            with opened_folder(name, parent=folder) as incoming:
                set_mode(incoming, self.root.folder_mode)

    def publish(self, token: str) -> None:
        """Give what a job built a name of its own, read-only; no reader sees it before :meth:`flip`.

        :raises SandboxRefused: something is in the way.
        :raises SandboxFull: there is no room.
        """
        source = _INCOMING + _checked(token)
        with translated(self.path), self._opened(create=False) as folder:
            make_folder(VERSIONS, parent=folder, mode=self.root.folder_mode)
            with opened_folder(VERSIONS, parent=folder) as versions:
                os.rename(source, token, src_dir_fd=folder, dst_dir_fd=versions)
                # Only now: a folder that its owner can't write can't be moved to another parent, unless by root.
                with opened_folder(token, parent=versions) as version:
                    set_mode(version, self.root.published_mode)
                    os.fsync(version)
                os.fsync(versions)
            os.fsync(folder)

    def flip(self, token: str) -> None:
        """Let readers see a published version from now on, in one step.

        :raises SandboxRefused: the version is not there, or something is in the way.
        :raises SandboxFull: there is no room.
        """
        target = f"{VERSIONS}/{_checked(token)}"
        with translated(self.path), self._opened(create=False) as folder:
            with opened_folder(VERSIONS, parent=folder) as versions, opened_folder(token, parent=versions):
                for name, constant in LINKS.items():
                    point_link(name, constant, folder)
                point_link(CURRENT, target, folder)
            sync_at_best(folder)

    def current(self) -> str | None:
        """Return the token of the version that readers see, or ``None``."""
        with self._if_there() as folder:
            return None if folder is None else shown_token(folder)

    def versions(self) -> dict[str, float]:
        """Return the age in seconds of every published version by its token."""
        with self._if_there() as folder:
            return {} if folder is None else ages_seconds(folder, VERSIONS)

    def incomings(self) -> dict[str, float]:
        """Return the age in seconds of everything in the making by its token."""
        with self._if_there() as folder:
            ages = {} if folder is None else ages_seconds(folder)
        return {name.removeprefix(_INCOMING): age for name, age in ages.items() if name.startswith(_INCOMING)}

    def discard_incoming(self, token: str) -> None:
        """Remove what a job built so far; not there is fine."""
        incoming = _INCOMING + _checked(token)
        with self._if_there() as folder:
            if folder is not None:
                remove_tree(incoming, parent=folder)

    def tokens(self) -> set[str]:
        """Return the tokens of all that jobs built or are building here, and of what is on its way out."""
        with self._if_there() as folder:
            if folder is None:
                return set()
            names = [name for name in ages_seconds(folder) if name.startswith((_INCOMING, REMOVING))]
            temporary = {name.removeprefix(_INCOMING).removeprefix(REMOVING) for name in names}
            return {token for token in temporary | ages_seconds(folder, VERSIONS).keys() if NAME.match(token)}

    def discard(self, token: str) -> bool:
        """Remove what a job built, published or not; not there is fine.

        What readers see stays. The link is never taken away for one version: somebody else may have flipped it since
        it was looked at.

        :returns: ``False`` where readers see it.
        """
        self.discard_incoming(token)
        with self._if_there() as folder:
            if folder is None:
                return True
            if shown_token(folder) == token:
                return False
            remove_tree(REMOVING + token, parent=folder)
            remove_versions({token}, folder)
        return True

    def holds(self, token: str) -> bool:
        """Return whether there is a published version of this token, with its working tree and its Git data."""
        with self._if_there() as folder, suppress(FileNotFoundError):
            if folder is not None:
                with opened_folder(VERSIONS, parent=folder) as versions:
                    return is_whole(_checked(token), versions)
        return False

    def sweep(
        self, *, keep: Collection[str], older_than_seconds: float, keep_shown: bool = True, is_known: bool | None = None
    ) -> int:
        """Remove versions and incoming folders that nobody knows, once they are old enough; return how many.

        :param keep: tokens that the database knows, published and building.
        :param keep_shown: does the version that readers see stay too? After a commit whose outcome nobody learned, the
            link may be ahead of the database.
        :param is_known: does the database know the repository? If not, the whole sandbox goes once all in it is old.
            By default, where there is anything to keep.
        """
        is_known = bool(keep) if is_known is None else is_known
        with self._if_there() as folder:
            if folder is None:
                return 0
            kept = {*keep, shown_token(folder)} if is_known and keep_shown else set(keep)
            all_is_old = age_seconds(os.fstat(folder)) > older_than_seconds
            old = {name for name, age in ages_seconds(folder).items() if age > older_than_seconds}
            temporaries = {name for name in old if name.removeprefix(_INCOMING) not in kept}
            versions = {name for name, age in ages_seconds(folder, VERSIONS).items() if age > older_than_seconds} - kept
            if not is_known and shown_token(folder) in versions:
                remove_tree(CURRENT, parent=folder)
            removed = _remove_temporaries(temporaries, folder) + remove_versions(versions, folder)
        # A job may begin in the sandbox of a repository that is known at any moment: only what has a name goes there.
        if all_is_old and not is_known and not self.versions() and not self.incomings():
            self.remove()
        return removed

    def remove(self) -> None:
        """Remove the sandbox, and the project's folder with the last of them; not there is fine."""
        with self._if_there() as folder:
            if folder is None:
                return
            # Readers lose the whole at once, not file by file.
            remove_tree(CURRENT, parent=folder)
        with translated(self.path), suppress(FileNotFoundError), self.root.opened() as base:
            with opened_folder(self.project_key, parent=base) as project:
                remove_tree(self.repository_id, parent=project)
            remove_if_empty(self.project_key, base)

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        mode = self.root.folder_mode
        with self.root.opened() as base:
            if create:
                if read_marker(base) is None:
                    raise SandboxRootMissing
                make_folder(self.project_key, parent=base, mode=mode)
            with opened_folder(self.project_key, parent=base) as project:
                if create:
                    make_folder(self.repository_id, parent=project, mode=mode)
                with opened_folder(self.repository_id, parent=project) as folder:
                    yield folder

    @contextmanager
    def _if_there(self) -> Iterator[int | None]:
        """Open the folder for the length of a ``with`` block, or give ``None`` where it is not there."""
        with translated(self.path), ExitStack() as opened:
            try:
                folder: int | None = opened.enter_context(self._opened(create=False))
            except FileNotFoundError:
                folder = None
            yield folder


def sandboxes(root: SandboxRoot) -> list[Sandbox]:
    """Return every sandbox of a root that is on disk."""
    return [Sandbox(root, project_key, repository_id) for project_key, repository_id in root.names()]


def remove_root(root: SandboxRoot, root_ids: Collection[str]) -> int:
    """Remove all sandboxes of a root and its marker, and the root where nothing else is in it; not there is fine.

    :param root_ids: markers that say whose the root is.
    :returns: how many sandboxes there were.
    :raises SandboxRefused: the marker is none of these, or another user's; nothing was touched.
    """
    marker = root.read_marker()
    if marker is None:
        return 0
    if marker not in root_ids:
        raise SandboxRefused("The sandbox root belongs to another installation; it was not touched.")
    doomed = sandboxes(root)
    for sandbox in doomed:
        sandbox.remove()
    root.remove()
    return len(doomed)


def _remove_temporaries(names: Collection[str], folder: int) -> int:
    doomed = [name for name in names if name.startswith((_INCOMING, REMOVING, DRAFT))]
    return sum(remove_tree(name, parent=folder) for name in doomed)


def _checked(token: str) -> str:
    if not NAME.match(token):
        raise SandboxRefused
    return token
