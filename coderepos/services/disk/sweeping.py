"""The sweep: compares a sandbox root with the database, both ways, in a few queries.

Sandboxes without a row are removed from the disk. A row whose clone is missing becomes FAILED, and COMPLETED again when
the clone is back. Nothing here interferes with jobs: only versions that can't be published any more are removed, and
rows change by conditional UPDATEs.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from django.db.models import FilteredRelation, Q, QuerySet

from coderepos.engine import project_key
from coderepos.exceptions import CodeReposError
from coderepos.models import CloneStatus, CodeRepository, JobState, Node, alias
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from coderepos.sandbox.survey import SandboxSnapshot, Survey
from coderepos.services.disk.publication import align

BATCH: Final = 990
"""Sandboxes per query; older versions of SQLite take 999 values."""

logger = logging.getLogger(__name__)


def sweep_root(root: SandboxRoot, node: Node, *, older_than_seconds: float) -> str:
    """Compare ``root`` with the database and return what was done, in one line.

    :param root: prepared, so that it belongs to this machine.
    :param older_than_seconds: what is younger is never removed.
    """
    sweep = _Sweep(root, node, older_than_seconds)
    sweep.tidy()
    root.tidy(older_than_seconds=older_than_seconds)
    sweep.report_missing()
    sweep.report_found()
    return f"{sweep.removed} removed, {sweep.missing} missing, {sweep.found} found again"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """What the database has of one repository."""

    version: str
    is_shown_here: bool
    """Whether it is COMPLETED, with its clone on this machine."""

    is_here: bool
    building: frozenset[str]
    """Lease tokens of running jobs."""


class _Sweep:
    def __init__(self, root: SandboxRoot, node: Node, older_than_seconds: float) -> None:
        self._root: Final = root
        self._survey: Final = Survey(root)
        self._root_id: Final = str(node.root_id)
        # A machine that changed its name still owns this root.
        nodes = Node.objects.using(alias()).filter(root_id=node.root_id)
        self._nodes: Final = frozenset(nodes.values_list("name", flat=True))
        self._older_than_seconds: Final = older_than_seconds
        self._on_disk: Final[dict[uuid.UUID, set[str]]] = defaultdict(set)
        self.removed = self.missing = self.found = 0

    def tidy(self) -> None:
        """Remove what the database does not know, and point links to the versions that rows name."""
        for batch in _batches(self._survey.sandboxes()):
            ids = {snapshot.sandbox.repository_id: _uuid(snapshot.sandbox.repository_id) for snapshot in batch}
            rows = self._rows([one for one in ids.values() if one is not None])
            for snapshot in batch:
                if (repository_id := ids[snapshot.sandbox.repository_id]) is not None:
                    self._on_disk[repository_id] |= snapshot.complete
                    with _sandbox_errors_logged(repository_id):
                        self._tidy_one(snapshot, repository_id, rows.get(repository_id))

    def report_missing(self) -> None:
        """Mark rows FAILED whose clones are missing from this root."""
        rows = self._rows_here(clone_status=CloneStatus.COMPLETED, sandbox_path__startswith=f"{self._root.path}/")
        for repository in self._suspects(rows, lambda version, on_disk: version not in on_disk):
            with _sandbox_errors_logged(repository.pk):
                version = repository.version
                sandbox = Sandbox(self._root, project_key(repository.project_id), str(repository.pk))
                if self._survey.is_unreadable(sandbox):
                    continue
                # In this order: a disk that was unmounted since then does not have the marker.
                if sandbox.has_version(version) or self._root.read_marker() != self._root_id:
                    continue
                if repository.mark_sandbox_missing(version=version):
                    self.missing += 1
                    logger.error("repository %s: its clone %s is missing at %s", repository.pk, version, sandbox.path)

    def report_found(self) -> None:
        """Mark rows COMPLETED whose clones are in this root again, also where a job to replace one failed meanwhile."""
        rows = self._rows_here(clone_status=CloneStatus.FAILED)
        for repository in self._suspects(rows, lambda version, on_disk: version in on_disk):
            with _sandbox_errors_logged(repository.pk):
                sandbox = Sandbox(self._root, project_key(repository.project_id), str(repository.pk))
                if sandbox.has_version(repository.version) and repository.mark_sandbox_found(
                    version=repository.version,
                    sandbox_path=str(sandbox.repository_path),
                ):
                    align(sandbox, repository.pk)
                    self.found += 1
                    logger.warning("repository %s: its clone is back at %s", repository.pk, sandbox.path)

    def _tidy_one(self, snapshot: SandboxSnapshot, repository_id: uuid.UUID, row: _Row | None) -> None:
        if row is None:
            self.removed += snapshot.sandbox.sweep(keep=(), is_known=False, older_than_seconds=self._older_than_seconds)
            return
        if (
            row.is_shown_here
            and not row.building
            and row.version in snapshot.complete
            and (snapshot.current != row.version or not snapshot.has_links)
        ):
            align(snapshot.sandbox, repository_id)
        if snapshot.is_empty and not row.building:
            snapshot.sandbox.remove_empty(older_than_seconds=self._older_than_seconds)
        keep = {*row.building, row.version} - {""}
        if snapshot.temporaries or not snapshot.versions <= keep:
            self.removed += snapshot.sandbox.sweep(
                keep=keep,
                is_known=True,
                keep_current=row.is_here,
                older_than_seconds=self._older_than_seconds,
                found=snapshot.versions | snapshot.temporaries,
            )

    def _rows(self, repository_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, _Row]:
        """Return what the database has now.

        One query, which sees a job at work or what it published, and never neither.
        """
        running = FilteredRelation("jobs", condition=Q(jobs__state=JobState.RUNNING))
        rows = _repositories().filter(pk__in=repository_ids).alias(running=running)
        found: dict[uuid.UUID, _Row] = {}
        # A repository has one unfinished job at most, so each comes once.
        for pk, version, status, node, lease_token in rows.values_list(
            "pk", "version", "clone_status", "node", "running__lease_token"
        ):
            found[pk] = _Row(
                version=version,
                is_shown_here=status == CloneStatus.COMPLETED and node in self._nodes,
                is_here=node in self._nodes,
                building=frozenset(() if lease_token is None else (str(lease_token),)),
            )
        return found

    def _rows_here(self, **conditions: object) -> QuerySet[CodeRepository]:
        return _repositories().filter(node__in=self._nodes, **conditions).exclude(version="")

    def _suspects(
        self, rows: QuerySet[CodeRepository], is_one: Callable[[str, Collection[str]], bool]
    ) -> list[CodeRepository]:
        """Return the rows that contradict the survey of the disk."""
        versions = rows.values_list("pk", "version").iterator(chunk_size=BATCH)
        ids = [pk for pk, version in versions if is_one(version, self._on_disk.get(pk, ()))]
        batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
        few_fields = _repositories().only("pk", "project_id", "version")
        return [one for batch in batches for one in few_fields.filter(pk__in=batch)]


def _repositories() -> QuerySet[CodeRepository]:
    return CodeRepository.objects.using(alias())


def _batches(snapshots: Iterable[SandboxSnapshot]) -> Iterator[list[SandboxSnapshot]]:
    rest = iter(snapshots)
    while batch := list(islice(rest, BATCH)):
        yield batch


@contextmanager
def _sandbox_errors_logged(repository_id: uuid.UUID) -> Iterator[None]:
    """Log an error of one sandbox, so that the sweep goes on."""
    try:
        yield
    except CodeReposError as error:
        logger.debug("repository %s: not swept: %s", repository_id, error.message)
    except Exception:
        logger.exception("repository %s: not swept", repository_id)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
