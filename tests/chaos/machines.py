"""The run on three machines: what happens to them, and what has to hold on all of them in the end."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, PackState, StoredPack
from coderepos.models.stored_pack import unstored
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox, sandboxes
from coderepos.services.packs.manifest import index_name, manifest_name, names, pack_name
from coderepos.storage import MARKER
from tests.chaos.installation import Member, Room
from tests.chaos.invariants import FINAL, contents, is_sound
from tests.chaos.machine_events import MachineEvents
from tests.chaos.story import Story
from tests.chaos.users import READERS_CALLS, number_of_files


class MachinesStory(Story):
    """One run with a machine each for three clusters, small disks, and a storage for packs."""

    calls = READERS_CALLS

    def __init__(self, room: Room, chance: random.Random) -> None:
        super().__init__(room, chance)
        self._events = MachineEvents(room, chance)

    def _to_do(self) -> Iterator[str]:
        yield from super()._to_do()
        if number := unstored().count():
            yield f"{number} versions are not stored"
        if number := StoredPack.objects.filter(state=PackState.UPLOADING).count():
            yield f"{number} are being stored"
        yield from deleted_is_gone(self._room)

    def _left_behind(self) -> Iterator[str]:
        for member in self._room.members:
            yield from nothing_else_is_on(member)

    def _broken(self) -> Iterator[str]:
        for job in Job.objects.exclude(state__in=FINAL):
            yield f"job {job.pk} is stuck: {job.state}, attempt {job.attempt}, {job.error_code}"
        for repository in CodeRepository.objects.all():
            yield from self._broken_repository(repository)
        yield from stored_is_whole(self._room)

    def _broken_repository(self, repository: CodeRepository) -> Iterator[str]:
        if repository.clone_status not in (CloneStatus.COMPLETED, CloneStatus.CLEANED, CloneStatus.FAILED):
            yield f"repository {repository.pk} is {repository.clone_status}"
        if repository.clone_status != CloneStatus.COMPLETED or not repository.version:
            return
        member = next((one for one in self._room.members if one.name == repository.node), None)
        if member is None:
            yield f"repository {repository.pk} is on {repository.node!r}, which is no machine"
            return
        sandbox = Sandbox(SandboxRoot(member.root), str(repository.project_id), str(repository.pk))
        if sandbox.current() != repository.version:
            yield f"{sandbox.path} shows {sandbox.current()}, its row {repository.version}"
            return
        source = self._room.sources[repository.git_url.rpartition("/")[2]]
        if contents(sandbox.path / "current" / "tree") != contents(source):
            yield f"{sandbox.path} is not what is committed in {source}"
        yield from is_sound(sandbox.path / "git")

    def _figures(self) -> Iterator[str]:
        yield from super()._figures()
        restores = Job.objects.filter(kind=JobKind.RESTORE)
        done = restores.filter(state=JobState.SUCCEEDED).count()
        alone = sum(one.is_stored_only for one in CodeRepository.objects.all())
        yield f"{restores.count()} restores, {done} of them done; in the end {alone} are in the storage alone"


def nothing_else_is_on(member: Member) -> Iterator[str]:
    """Yield a sentence for every version on the disk of a machine that no row says is there."""
    wanted = {
        str(pk): version for pk, version in CodeRepository.objects.filter(node=member.name).values_list("pk", "version")
    }
    known = {str(pk) for pk in CodeRepository.objects.values_list("pk", flat=True)}
    if not member.root.exists():  # a new disk that no worker has used yet
        return
    for sandbox in sandboxes(SandboxRoot(member.root)):
        here = {*sandbox.tokens(), *sandbox.incomings()} - {wanted.get(sandbox.repository_id)}
        if sandbox.repository_id not in known and (files := number_of_files(sandbox.path)):
            yield f"{sandbox.path} has {files} files, and its repository was deleted"
        if here:
            yield f"{sandbox.path} has {sorted(here)} beside {wanted.get(sandbox.repository_id) or 'nothing'}"


def deleted_is_gone(room: Room) -> Iterator[str]:
    """Yield a sentence for every file in the storage that belongs to no version which shall be there."""
    shall = {
        name for stored in StoredPack.objects.present() for name in (names(stored) or (f"{stored.repository_id}/",))
    }
    for path in sorted(room.packs.rglob("*")):
        name = str(path.relative_to(room.packs))
        if path.is_file() and name != MARKER and not any(name.startswith(one) for one in shall):
            yield f"{name} is in the storage, and nobody needs it"


def stored_is_whole(room: Room) -> Iterator[str]:
    """Yield a sentence for every version whose bytes in the storage are not those that its row names."""
    for pack in StoredPack.objects.filter(state=PackState.STORED):
        for name, sha256 in (
            (pack_name(pack), pack.pack_sha256),
            (index_name(pack), pack.index_sha256),
            (manifest_name(pack), pack.manifest_sha256),
        ):
            path = room.packs / name
            if not path.is_file():
                yield f"{name} is not in the storage"
            elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                yield f"{name} is not what was stored"
    stored_only = CodeRepository.objects.filter(clone_status=CloneStatus.COMPLETED, version="")
    for repository in stored_only.exclude(
        stored_pack__in=StoredPack.objects.filter(state=PackState.STORED).values("pk")
    ):
        yield f"repository {repository.pk} is on no disk, and not in the storage"
