"""What each child drops before it touches hostile bytes.

=====  ==========================================  ==========================  ====================================
level  adds                                        true of build               true of fetch
=====  ==========================================  ==========================  ====================================
1      resource limits, no capabilities,           owns no token               writes no file
       ``no_new_privs``, dies with its parent
2      Landlock                                    writes and reads below its  writes nothing; reads what looks up
                                                   incoming directory alone,   names, and certificates; TCP to its
                                                   no TCP                      ports only; other sockets remain
3      seccomp: listed system calls alone, see     no socket of any kind, no   no socket but TCP and UDP, no fork,
       :mod:`~coderepos.git.confinement            exec, no signal, no mode    no exec, no signal, no mode or owner
       .allow_lists`                               beyond 0777, no owner       of a file
=====  ==========================================  ==========================  ====================================

The search for a commit has no file from level 2 on, and neither sockets nor further processes from level 3 on. The
highest level that the kernel offers is used. All of it binds root too, but for the bound on processes: without its
capabilities root can't raise a limit again.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import IsolationUnavailable
from coderepos.git.confinement import first_use, landlock, linux, seccomp
from coderepos.git.confinement.allow_lists import BUILD, FETCH, SEARCH
from coderepos.git.confinement.bpf import AllowList
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.wire import BuildRequest, FetchRequest, SearchRequest

_OPEN_FILES: Final = 1_024
_CPU_SPARE_SECONDS: Final = 10

_USERS_PROCESSES: Final = 2_048
"""Processes and threads of the worker's user with which the build child starts no further one; does not bind root."""

#: Long DNS answers come over TCP.
_DNS_PORT: Final = 53

#: What name resolution reads.
_RESOLVER: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
)

#: Where distributions keep certificates, and never where they keep private keys.
_CERTIFICATES: Final = (
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfinementProfile:
    """Everything that one kind of child drops, and what it keeps."""

    name: str
    """``fetch``, ``build`` or ``search``."""

    limits: dict[int, tuple[int, int]]
    """Soft and hard bound by ``RLIMIT_*``."""

    umask: int
    rules: landlock.Rules
    allowed_calls: AllowList


def confine_fetch(request: FetchRequest, *, ports: Iterable[int], with_tls: bool = True) -> dict[str, object]:
    """Drop all that a process that only talks to one Git host has no use for, and return what was dropped.

    Call it before any thread starts.

    :param ports: TCP ports of the Git host and of its platform's API; that of DNS is added.
    :param with_tls: whether certificates may be needed.
    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(fetch_profile(request, ports=ports, with_tls=with_tls), min_level=request.min_level)


def confine_build(request: BuildRequest) -> dict[str, object]:
    """Drop all that a process that only writes its incoming directory has no use for, and return what was dropped.

    Call it before any thread starts. Starting a second process with ``fork`` stays possible.

    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(build_profile(request), min_level=request.min_level)


def confine_search(request: SearchRequest) -> dict[str, object]:
    """Drop all that a process that only reads a pack from a pipe has no use for, and return what was dropped.

    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(search_profile(request), min_level=request.min_level)


def available_level() -> int:
    """Return the level that a child on this machine would reach."""
    return _level(landlock.abi(), filtered=seccomp.available())


def fetch_profile(request: FetchRequest, *, ports: Iterable[int], with_tls: bool = True) -> ConfinementProfile:
    """Return what the fetch child drops."""
    certificates = _certificates(request.policy) if with_tls else ()
    return ConfinementProfile(
        name="fetch",
        limits=_resource_limits(request.limits, file_bytes=0),
        umask=0o077,
        rules=landlock.Rules(
            read=(*_RESOLVER, *certificates),
            connect_ports=tuple(sorted({*ports, _DNS_PORT})),
        ),
        allowed_calls=FETCH,
    )


def build_profile(request: BuildRequest) -> ConfinementProfile:
    """Return what the build child drops."""
    limits = request.limits
    processes = {resource.RLIMIT_NPROC: (_USERS_PROCESSES, _USERS_PROCESSES)}
    return ConfinementProfile(
        name="build",
        limits=_resource_limits(limits, file_bytes=limits.disk_bytes + limits.wire_bytes) | processes,
        umask=0o027 if request.group_readable else 0o077,
        rules=landlock.Rules(write=(request.incoming,)),
        allowed_calls=BUILD,
    )


def search_profile(request: SearchRequest) -> ConfinementProfile:
    """Return what the search for a commit drops."""
    return ConfinementProfile(
        name="search",
        limits=_resource_limits(request.limits, file_bytes=0),
        umask=0o077,
        rules=landlock.Rules(),
        allowed_calls=SEARCH,
    )


def _resource_limits(limits: Limits, *, file_bytes: int) -> dict[int, tuple[int, int]]:
    # The watchdog of the pipeline comes first; the second bound is for a child that ignores SIGXCPU.
    cpu_seconds = math.ceil(limits.clone_seconds) + _CPU_SPARE_SECONDS
    return {
        resource.RLIMIT_AS: (limits.address_space_bytes, limits.address_space_bytes),
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + _CPU_SPARE_SECONDS),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_CORE: (0, 0),
    }


def _certificates(policy: NetworkPolicy) -> tuple[str, ...]:
    found = ssl.get_default_verify_paths()
    candidates = (found.cafile, found.capath, found.openssl_cafile, found.openssl_capath, policy.ca_bundle)
    return (*_CERTIFICATES, *filter(None, candidates))


def _confine(profile: ConfinementProfile, *, min_level: int) -> dict[str, object]:
    first_use.load()
    os.umask(profile.umask)
    for kind, (soft, hard) in profile.limits.items():
        _lower_limit(kind, soft, hard)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # Closes /proc/self/mem and ptrace to other processes of the same user.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    _let_go_of_standard_error()
    report: dict[str, object] = {}
    abi = _best_effort(lambda: landlock.restrict(profile.rules), report, "landlock_refused")
    filtered = bool(_best_effort(lambda: seccomp.install(profile.allowed_calls), report, "seccomp_refused"))
    level = _level(abi, filtered=filtered)
    if level < min_level:
        raise IsolationUnavailable(level=level, min_level=min_level)
    if filtered:
        report["allow_list"] = profile.name
    return {"level": level, "landlock_abi": abi, "tcp": abi >= 4, "scoped": abi >= 6, "seccomp": filtered, **report}


def _level(abi: int, *, filtered: bool) -> int:
    if not abi:
        return 1
    return 3 if filtered else 2


def _best_effort(bind: Callable[[], int], report: dict[str, object], name: str) -> int:
    """Return what ``bind`` answers, or 0 with the error's name in the report: a lower level is no reason to stop."""
    try:
        return bind()
    except OSError as error:
        report[name] = errno.errorcode.get(error.errno or 0, "unknown")
        return 0


def _lower_limit(kind: int, soft: int, hard: int) -> None:
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def _let_go_of_standard_error() -> None:
    """Put nothing in the place of ``/dev/null``, whose mode root's child could change for everybody."""
    nowhere = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    os.dup2(nowhere, 2, inheritable=False)
    os.close(nowhere)
