"""What the simulation rests on: each figure is measured of the app, or an assumption to replace by one's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Figures of the app itself: those of the database by ``python -m tests.simulation.measure``, in bytes."""

    repository_bytes: int = 1_560
    """A row with its indexes; so are the next three."""

    job_bytes: int = 490
    audit_bytes: int = 500
    stored_pack_bytes: int = 590
    clone_wal_bytes: int = 17_900
    """What a first clone writes to the log of the database, from the notification to the end."""

    update_wal_bytes: int = 17_200
    store_wal_bytes: int = 7_800
    store_again_wal_bytes: int = 9_800
    """To store a version that takes the place of another one, which leaves."""

    restore_wal_bytes: int = 15_800
    audit_entries_a_clone: int = 1
    """That the token was opened, which a restore does not."""

    objects_a_version: int = 3
    """Pack, index and manifest."""

    sizes_a_version: int = 3
    """Questions for the size of what was stored."""

    looks_a_removal: int = 3
    """Questions whether something is left, of a version that leaves; each object is removed twice, an hour apart."""

    listings_a_deletion: int = 4
    """Of a repository that was deleted, whose prefix is listed until it is empty twice."""

    index_share: float = 0.075
    """Bytes of an index for each of its pack: celery, 95,656 objects."""

    restore_seconds: tuple[float, float] = (0.1, 0.013)
    """A restore by the stored index, and for each MB of the pack: what docs/scaling-out.md has of two repositories."""


@dataclass(frozen=True)
class Assumptions:
    """Figures of a site, its hosts and its bills. Sizes are in MB of 10^6 bytes, money in USD."""

    repositories: int = 1_000_000
    median_pack_mb: float = 3.0
    """Sizes are log-normal: most repositories are small, and few large ones have most of the bytes."""

    sigma: float = 1.7
    most_pack_mb: float = 100.0
    """``MAX_REPO_SIZE_MB``."""

    tree_share: float = 1.2
    """Bytes of a working tree for each of the pack, in whole blocks: 0.24 in celery, 1.29 in django-oauth-toolkit."""

    beside_mb: float = 0.2
    """Directories, refs and inodes of a version."""

    changed_a_day: float = 0.12
    """Share of repositories that is cloned again on a day, once each: hosts call it when a push is announced."""

    new_a_day: float = 0.004
    """Share that is connected on a day; as many are deleted."""

    opened_a_day: float = 0.6
    """Clones opened a day for each repository."""

    popularity: float = 0.9
    """Exponent of Zipf's law: few repositories are opened again and again."""

    polls_a_day: float = 24.0
    """Questions for the refs of each repository, if something asked every hour; the app does not."""

    host_seconds: tuple[float, float] = (0.5, 0.18)
    """A clone in a worker, and for each MB: a host that sends 10 MB a second, and our own 0.08 s a MB."""

    restore_factor: float = 2.0
    """Restores take so much longer than measured, since a storage is further away than a directory."""

    peak: float = 3.0
    """The busiest hour by the mean one."""

    workers: int = 8
    """Of a machine."""

    busy: float = 0.5
    """Share of their time at the peak: what is left is for restarts and lost machines."""

    machine_disk_gb: float = 2_000
    disk_share: float = 0.85
    """Share of a disk that is a cache: ``SANDBOX_MAX_GB``."""

    part_mb: float = 8.0
    """The S3 client moves larger objects in parts, each a request."""

    machine_month: float = 220
    database_month: float = 950
    """A database with a standby, and a broker."""

    stored_gb_month: float = 0.023
    put_thousand: float = 0.005
    """A list costs as much as a put."""

    get_thousand: float = 0.0004
    """A head costs as much as a get. What leaves a bucket for machines beside it costs nothing."""

    days_a_month: float = 30.4
