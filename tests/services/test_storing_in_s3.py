"""The storage for packs in S3, by django-storages and a moto server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from model_bakery import baker
from moto.server import ThreadedMotoServer
from pytest_django import Settings

from coderepos.checks import check_storage
from coderepos.crypto.secret import Secret
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, get_project_model
from tests.services.test_storing import let_time_pass
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines

pytest.importorskip("storages", reason="an installation from before the extra s3")

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a moto server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Any]:
    """An empty bucket."""
    s3 = boto3.resource("s3", endpoint_url=endpoint, **KEYS)
    bucket = s3.create_bucket(Bucket="packs")
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()
    s3.meta.client.close()


@pytest.fixture
def machines(settings: Settings, tmp_path: Path, endpoint: str, bucket: Any) -> TwoMachines:
    """Two machines with a bucket."""
    options = {
        "bucket_name": "packs",
        "endpoint_url": endpoint,
        "access_key": "a",
        "secret_key": "b",
        "region_name": "us-east-1",
        "max_memory_size": 4 * 2**20,
    }
    return TwoMachines(settings, tmp_path, {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options})


def test_version_is_stored_restored_and_removed(
    machines: TwoMachines, settings: Settings, tmp_path: Path, bucket: Any
) -> None:
    """A lost object is cloned again, and a deleted repository leaves the bucket empty."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as server:
        settings.CODEREPOS = {
            **settings.CODEREPOS,
            "PRIVATE_GIT_HOSTS": [server.host],
            "INSECURE_HTTP_HOSTS": [server.host],
        }
        repository = baker.make(
            CodeRepository,
            project=baker.make(get_project_model()),
            git_url=server.url("repository"),
            token_ciphertext=Secret(""),
        )
        assert machines.work("a", Job.objects.create(repository=repository)) == "succeeded"
    assert check_storage() == []
    assert machines.store("a") == "1 stored, 0 removed"
    assert sorted(one.key.rpartition(".")[2] for one in bucket.objects.all()) == ["idx", "json", "pack"]

    for lost, other in (("a", "b"), ("b", "a")):
        machines.lose(lost)
        assert machines.relocate(other) == 1
        assert machines.work(other, Job.objects.latest("created_at")) == "succeeded"
        assert CodeRepository.objects.get().node == other

    machines.lose("a")
    assert machines.relocate("b") == 1
    next(one for one in bucket.objects.all() if one.key.endswith(".pack")).delete()
    job = Job.objects.latest("created_at")
    assert machines.work("b", job) == "retry_scheduled"
    job.refresh_from_db()
    assert (job.kind, job.error_code) == (JobKind.CLONE, "store_damaged")
    assert CodeRepository.objects.get().clone_status == CloneStatus.PENDING

    repository.delete()
    machines.store("b")
    assert list(bucket.objects.all()) == []
    let_time_pass()
    assert machines.store("b") == "0 stored, 1 removed"


def test_storage_that_would_rename_or_fill_the_memory_is_refused(machines: TwoMachines, settings: Settings) -> None:
    """By the system checks."""
    entry = settings.STORAGES["packs"]
    for option, found in (({"file_overwrite": False}, "coderepos.E054"), ({"max_memory_size": 0}, "coderepos.E055")):
        machines.store_in({**entry, "OPTIONS": {**entry["OPTIONS"], **option}})
        assert [message.id for message in check_storage()] == [found]
