"""The sums of the simulation, and a cache that is fed with what readers and workers do."""

from __future__ import annotations

import math
import random
import statistics
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

from tests.simulation.assumptions import Assumptions, Measured

SAMPLE = 40_000
"""Repositories whose sizes are drawn, and that the cache is fed with."""

CACHE_DAYS = 4
"""Days that the cache sees; the second half counts."""

SECONDS = 86_400
SEED = 7


@dataclass(frozen=True)
class Site:
    """What a site takes a day; the same figures at each call."""

    given: Assumptions = field(default_factory=Assumptions)
    app: Measured = field(default_factory=Measured)

    @cached_property
    def packs_mb(self) -> list[float]:
        """Sizes of packs, as many as the sample has."""
        chance, sizes = random.Random(SEED), list[float]()
        while len(sizes) < SAMPLE:
            size_mb = self.given.median_pack_mb * chance.lognormvariate(0, self.given.sigma)
            if size_mb <= self.given.most_pack_mb:
                sizes.append(size_mb)
        return sizes

    @cached_property
    def pack_mb(self) -> float:
        """The mean size of a pack."""
        return statistics.fmean(self.packs_mb)

    def disk_mb(self, pack_mb: float) -> float:
        """Return what a version takes on a disk."""
        return pack_mb * (1 + self.app.index_share + self.given.tree_share) + self.given.beside_mb

    @property
    def clones(self) -> float:
        """First clones a day."""
        return self.given.repositories * self.given.new_a_day

    @property
    def updates(self) -> float:
        """Clones of what was cloned before."""
        return self.given.repositories * self.given.changed_a_day

    @property
    def opened(self) -> float:
        """Clones opened a day."""
        return self.given.repositories * self.given.opened_a_day

    @property
    def polls(self) -> float:
        """Questions for refs a day, if something asked them."""
        return self.given.repositories * self.given.polls_a_day

    @property
    def host_mb(self) -> float:
        """What Git hosts send a day: each clone is a whole one."""
        return (self.clones + self.updates) * self.pack_mb

    @property
    def audit_rows(self) -> float:
        """Rows of the audit trail a day."""
        return (self.clones + self.updates) * self.app.audit_entries_a_clone

    @property
    def stored_mb(self) -> float:
        """What the storage holds."""
        return self.given.repositories * self.pack_mb * (1 + self.app.index_share)

    @cached_property
    def parts(self) -> float:
        """Requests that move one pack, on average: one, or one for each part and two around them."""
        counts = (math.ceil(size_mb / self.given.part_mb) for size_mb in self.packs_mb)
        return statistics.fmean(count if count == 1 else count + 2 for count in counts)

    @property
    def puts(self) -> float:
        """Requests a day that store something."""
        return (self.clones + self.updates) * (self.parts + self.app.objects_a_version - 1)

    @property
    def heads(self) -> float:
        """Requests a day for a size, and whether something is there."""
        return (self.clones + self.updates) * self.app.sizes_a_version + self.updates * self.app.looks_a_removal

    @property
    def deletes(self) -> float:
        """Requests a day that remove something: twice where a version leaves, an hour apart."""
        return (2 * self.updates + self.clones) * self.app.objects_a_version

    @property
    def lists(self) -> float:
        """Lists a day of the prefixes of deleted repositories."""
        return self.clones * self.app.listings_a_deletion

    def on_disk(self, share: float) -> OnDisk:
        """Return what differs with the share of all versions that is on disks."""
        return OnDisk(self, share)


@dataclass(frozen=True)
class OnDisk:
    """A site whose disks hold a share of all versions."""

    site: Site
    share: float

    @cached_property
    def hits(self) -> float:
        """Share of the clones opened that are on a disk: least recently used leaves, whatever was cloned is there."""
        site, chance = self.site, random.Random(SEED + 1)
        sizes_mb = [site.disk_mb(size_mb) for size_mb in site.packs_mb]
        budget_mb, used_mb = self.share * sum(sizes_mb) + 1, 0.0
        ranks = chance.sample(range(SAMPLE), SAMPLE)
        weights = [(rank + 1) ** -site.given.popularity for rank in ranks]
        opened = round(SAMPLE * site.given.opened_a_day * CACHE_DAYS)
        updated = round(SAMPLE * site.given.changed_a_day * CACHE_DAYS)
        events = [(one, True) for one in chance.choices(range(SAMPLE), weights, k=opened)]
        events += [(chance.randrange(SAMPLE), False) for _ in range(updated)]
        chance.shuffle(events)
        held = OrderedDict[int, None]()
        # What was used before the first day is there.
        events = [(one, False) for one in sorted(range(SAMPLE), key=lambda one: -ranks[one])] + events
        found = asked = 0
        for number, (one, is_opened) in enumerate(events):
            if is_opened and number >= len(events) - (opened + updated) // 2:
                asked += 1
                found += one in held
            if one in held:
                held.move_to_end(one)
                continue
            held[one] = None
            used_mb += sizes_mb[one]
            while used_mb > budget_mb:
                used_mb -= sizes_mb[held.popitem(last=False)[0]]
        return found / asked

    @property
    def disks_gb(self) -> float:
        """Room on all disks."""
        sizes_mb = statistics.fmean(self.site.disk_mb(size_mb) for size_mb in self.site.packs_mb)
        return self.share * self.site.given.repositories * sizes_mb / 1e3

    @property
    def restores(self) -> float:
        """Restores a day."""
        return (1 - self.hits) * self.site.opened

    @property
    def job_rows(self) -> float:
        """Rows of jobs a day."""
        return self.site.clones + self.site.updates + self.restores

    @property
    def wal_mb(self) -> float:
        """What the log of the database gets a day."""
        site, app = self.site, self.site.app
        first = site.clones * (app.clone_wal_bytes + app.store_wal_bytes)
        again = site.updates * (app.update_wal_bytes + app.store_again_wal_bytes)
        return (first + again + self.restores * app.restore_wal_bytes) / 1e6

    @property
    def gets(self) -> float:
        """Requests a day that read something: three objects, each after a question for its size."""
        objects = self.site.app.objects_a_version
        return self.restores * (self.site.parts + objects - 1 + objects)

    @property
    def machines_by_work(self) -> float:
        """Machines that the work of the busiest hour takes."""
        site, given = self.site, self.site.given
        clone_seconds = given.host_seconds[0] + given.host_seconds[1] * site.pack_mb
        constant, per_mb = site.app.restore_seconds
        restore_seconds = given.restore_factor * (constant + per_mb * site.pack_mb)
        seconds = (site.clones + site.updates) * clone_seconds + self.restores * restore_seconds
        return seconds * given.peak / SECONDS / given.workers / given.busy

    @property
    def machines_by_disk(self) -> float:
        """Machines that the disks take."""
        return self.disks_gb / self.site.given.machine_disk_gb / self.site.given.disk_share

    @property
    def machines(self) -> int:
        """Machines that it takes; two at least, so that one may be lost."""
        return max(2, math.ceil(max(self.machines_by_work, self.machines_by_disk)))

    @property
    def costs(self) -> dict[str, float]:
        """USD a day by what they are for."""
        site, given = self.site, self.site.given
        return {
            "put and list": (site.puts + site.lists) / 1e3 * given.put_thousand,
            "get and head": (self.gets + site.heads) / 1e3 * given.get_thousand,
            "stored": site.stored_mb / 1e3 * given.stored_gb_month / given.days_a_month,
            "machines": self.machines * given.machine_month / given.days_a_month,
            "database": given.database_month / given.days_a_month,
        }
