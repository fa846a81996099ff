"""What goes in and what comes out, by name and type; no serializer of an answer knows the token."""

from __future__ import annotations

from functools import cache
from typing import Any

from rest_framework import serializers

from coderepos.api.fields import (
    DepthField,
    GitUrlField,
    MegabytesField,
    NamedChoiceField,
    RefField,
    TextOrNullField,
    TokenField,
    UserNameField,
    UtcTimeField,
)
from coderepos.conf import conf
from coderepos.crypto.redaction import redact
from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CloneStatus, CodeRepository, Job, JobKind, JobState, TokenStatus
from coderepos.services.repositories.arguments import check_username
from coderepos.services.repositories.status import Status, is_retryable


class TokenTakingSerializer(serializers.Serializer[Any]):
    """A body with a token, which shows it to nobody."""

    def __repr__(self) -> str:
        """Return the name alone: the inherited representation holds the data, and with it the token."""
        return f"<{type(self).__name__}>"

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the values, unless the user name is the token.

        :raises ValidationError: it is: it would be stored and shown readable.
        """
        check_username(attrs.get("username") or "", attrs.get("access_token") or Secret(""))
        return attrs

    def get_initial(self) -> dict[str, Any]:
        """Return what a form shows again: never the token."""
        return {**super().get_initial(), "access_token": ""}


class ConnectSerializer(TokenTakingSerializer):
    """The body of a connect call. Names that are not listed here are ignored, whatever they are."""

    git_url = GitUrlField(help_text="HTTPS URL such as https://host/owner/repository.git, without user or password.")
    access_token = TokenField(help_text="Token that may read the repository; leave it out for a public one.")
    project_id = serializers.CharField(help_text="Project that the repository is connected to.")
    ref = RefField(default="")
    username = UserNameField(
        default="", help_text="User name to send with the token instead of the platform's usual one."
    )
    depth = DepthField(default=None)


class ReplaceTokenSerializer(TokenTakingSerializer):
    """The body of a call that replaces a token."""

    access_token = TokenField(required=True, help_text="The new token; empty if the repository is public now.")
    username = UserNameField(required=False, help_text="User name to send with it; if left out, the stored one stays.")


class ChangeSerializer(serializers.Serializer[Any]):
    """The body of a call that changes what is cloned; what is left out stays as it is."""

    ref = RefField(required=False)
    depth = DepthField(required=False)
    username = UserNameField(
        required=False, help_text="User name to send with the token; empty for the platform's usual one."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the values.

        :raises ValidationError: there are none, or the user name is a token.
        """
        if not attrs:
            raise serializers.ValidationError("Give at least one of ref, depth and username.")
        check_username(attrs.get("username") or "", Secret(""))
        return attrs


class TokenSerializer(serializers.Serializer[Any]):
    """What is known about the token of a repository."""

    repo_id = serializers.UUIDField(source="id")
    token_status = NamedChoiceField(TokenStatus)
    token_expires_at = UtcTimeField(allow_null=True)


class ConnectedSerializer(serializers.Serializer[Any]):
    """The answer to a connect call, made of a ``services.Connection``."""

    repo_id = serializers.UUIDField(source="repository.id")
    git_url = serializers.CharField(source="repository.git_url")
    connected = serializers.BooleanField(default=True)
    task_id = serializers.UUIDField(source="job.id")
    estimated_size_mb = MegabytesField(source="repository.estimated_size_mb", allow_null=True)
    size_source = serializers.CharField(
        source="repository.size_source",
        help_text="Origin of the size: probe; platform, if its figure is larger; full_fetch, if all was counted.",
    )
    clone_status = NamedChoiceField(CloneStatus, source="repository.clone_status")
    created_at = UtcTimeField(source="repository.created_at")


class RepositorySerializer(serializers.ModelSerializer[CodeRepository]):
    """The details of a repository."""

    repo_id = serializers.UUIDField(source="id")
    project_id = serializers.CharField()
    ref_name = TextOrNullField(help_text="Full name of the ref that was cloned, such as refs/heads/main.")
    commit_id = TextOrNullField(help_text="Commit that the working tree shows.")
    substitutions = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="How often the clone differs from what is in the repository, by reason.",
    )
    substituted_paths = serializers.ListField(
        child=serializers.CharField(),
        help_text="Where it differs, as `reason: path`: at most twenty; the result of the job has up to a hundred.",
    )
    clone_status = NamedChoiceField(CloneStatus)
    estimated_size_mb = MegabytesField(allow_null=True)
    repository_size_mb = MegabytesField(allow_null=True)
    token_status = NamedChoiceField(TokenStatus)
    token_expires_at = UtcTimeField(allow_null=True)
    error_code = TextOrNullField()
    error_message = TextOrNullField()
    retryable = serializers.SerializerMethodField()
    connected_by = serializers.SerializerMethodField()
    username = serializers.SerializerMethodField()
    cloned_at = UtcTimeField(allow_null=True)
    created_at = UtcTimeField()
    updated_at = UtcTimeField()

    class Meta:
        model = CodeRepository
        fields = (
            "repo_id",
            "project_id",
            "git_url",
            "platform",
            "ref",
            "ref_name",
            "commit_id",
            "substitutions",
            "substituted_paths",
            "depth",
            "username",
            "clone_status",
            "estimated_size_mb",
            "size_source",
            "repository_size_mb",
            "sandbox_path",
            "token_status",
            "token_expires_at",
            "error_code",
            "error_message",
            "retryable",
            "connected_by",
            "cloned_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_retryable(self, repository: CodeRepository) -> bool:
        """Whether the failed work is worth another try without any change by the user."""
        return is_retryable(repository.error_code)

    def get_connected_by(self, repository: CodeRepository) -> str | None:
        """Name of the user who connected it, never an e-mail address: many hosts have those as user names."""
        user = repository.connected_by
        names = (user.get_username(), getattr(user, "get_full_name", str)()) if user else ()
        return next((name for name in names if name and "@" not in name), None)

    def get_username(self, repository: CodeRepository) -> str:
        """User name that goes with the token; one that is a token itself is masked."""
        return repository.username and redact(repository.username)


class ProgressSerializer(serializers.Serializer[Any]):
    """How far the running attempt has come; made of a ``services.Status``."""

    phase = serializers.CharField(
        source="progress.phase", help_text="starting, connecting, receiving, resolving, writing or publishing."
    )
    received_mb = MegabytesField()
    limit_mb = serializers.SerializerMethodField()
    objects = serializers.IntegerField(source="progress.objects")
    percent = serializers.IntegerField(allow_null=True, help_text="Percentage of the phase that is done, if known.")

    def get_attribute(self, instance: Status) -> Status | None:
        """Return the status itself; ``None`` unless an attempt is running."""
        return instance if instance.progress else None

    def get_limit_mb(self, status: Status) -> float:
        """MB that a repository may have."""
        return conf.MAX_REPO_SIZE_MB


class StatusSerializer(serializers.Serializer[Any]):
    """What happens now, and why; made of a ``services.Status``."""

    repo_id = serializers.UUIDField(source="repository.id")
    clone_status = NamedChoiceField(CloneStatus, source="repository.clone_status")
    repository_size_mb = MegabytesField(source="repository.repository_size_mb", allow_null=True)
    sandbox_path = serializers.CharField(source="repository.sandbox_path", allow_null=True)
    progress_message = serializers.CharField()
    error_message = TextOrNullField(source="repository.error_message")
    error_code = TextOrNullField(source="repository.error_code")
    retryable = serializers.BooleanField()
    token_status = NamedChoiceField(TokenStatus, source="repository.token_status")
    token_expires_at = UtcTimeField(source="repository.token_expires_at", allow_null=True)
    task_id = serializers.UUIDField(source="job.id", default=None, allow_null=True)
    attempt = serializers.IntegerField(source="job.attempt", default=0)
    max_attempts = serializers.IntegerField(source="job.max_attempts", default=None, allow_null=True)
    next_attempt_at = UtcTimeField(source="job.next_attempt_at", default=None, allow_null=True)
    heartbeat_at = UtcTimeField(source="job.heartbeat_at", default=None, allow_null=True)
    progress = ProgressSerializer(allow_null=True)
    queue_position = serializers.IntegerField(
        allow_null=True, help_text="Jobs of the same project ahead of this one, while it waits."
    )
    updated_at = UtcTimeField(source="repository.updated_at")


@cache
def _status_serializer() -> StatusSerializer:
    # Programs ask for a status all the time, and to make its fields takes longer than to show them.
    return StatusSerializer()


def status_body(status: Status) -> dict[str, Any]:
    """Return the body of the answer to a status call."""
    return dict(_status_serializer().to_representation(status))


class JobStartedSerializer(serializers.Serializer[Any]):
    """The answer to a call that started a job or cancelled one."""

    repo_id = serializers.UUIDField(source="repository_id")
    task_id = serializers.UUIDField(source="id")
    clone_status = NamedChoiceField(CloneStatus, source="repository.clone_status")


class CleaningSerializer(serializers.Serializer[Any]):
    """The answer to a call that cleans a repository."""

    repo_id = serializers.UUIDField(source="id")
    clone_status = NamedChoiceField(CloneStatus)


class JobSerializer(serializers.Serializer[Any]):
    """One entry of the history."""

    task_id = serializers.UUIDField(source="id")
    kind = NamedChoiceField(JobKind)
    state = NamedChoiceField(JobState)
    attempt = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    next_attempt_at = UtcTimeField(allow_null=True)
    received_mb = serializers.SerializerMethodField()
    isolation_level = serializers.IntegerField(allow_null=True)
    result = serializers.DictField(help_text="What was counted: objects, entries, substitutions, seconds per phase.")
    error_code = TextOrNullField()
    error_message = TextOrNullField()
    created_at = UtcTimeField()
    started_at = UtcTimeField(allow_null=True)
    finished_at = UtcTimeField(allow_null=True)

    def get_received_mb(self, job: Job) -> float:
        """MB that came over the wire."""
        return round(job.bytes_received / 10**6, 1)


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """One entry of the audit trail of a repository."""

    event = NamedChoiceField(AuditEvent)
    actor = TextOrNullField(source="actor_name", help_text="Who asked for it; null for workers and commands.")
    actor_id = TextOrNullField()
    task_id = serializers.UUIDField(source="job_id", allow_null=True)
    details = serializers.DictField(help_text="Codes and figures; never a token.")
    created_at = UtcTimeField()

    class Meta:
        model = AuditEntry
        fields = ("id", "event", "actor", "actor_id", "task_id", "details", "created_at")
        read_only_fields = fields
