"""What the two child processes give up before they touch hostile bytes.

=====  ===========================================  ==========================  =====================================
level  adds                                         true of build               true of fetch
=====  ===========================================  ==========================  =====================================
1      resource limits, no capabilities,            owns no token               writes no file
       ``no_new_privs``, dies with its parent
2      Landlock                                     writes below its incoming   writes nothing, TCP to its ports
                                                    folder, reads its imports,  only; UDP and UNIX sockets remain
                                                    no TCP
3      seccomp                                      no socket of any kind,      no exec, no io_uring
                                                    no exec, no io_uring
=====  ===========================================  ==========================  =====================================

The highest level that the kernel offers is used. All of it binds root too: without its capabilities root can't raise
a limit again. There is no ``RLIMIT_NPROC``: it counts every process of the user and does not bind root.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import signal
import ssl
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import coderepos
from coderepos.exceptions import IsolationUnavailable
from coderepos.git.confinement import landlock, seccomp
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.wire import BuildRequest, FetchRequest, SearchRequest

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_OPEN_FILES: Final = 1_024
_CPU_SPARE_SECONDS: Final = 10

#: Long DNS answers come over TCP.
_DNS_PORT: Final = 53

#: What the dynamic linker reads for extension modules that are imported late.
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")

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
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
)

#: This package; the folder that holds it may hold secrets beside it.
_OWN_PACKAGE: Final = os.path.dirname(os.path.abspath(coderepos.__file__))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that one kind of child gives up."""

    limits: dict[int, tuple[int, int]]
    """Soft and hard bound by ``RLIMIT_*``."""

    umask: int
    rules: landlock.Rules
    refused_calls: frozenset[str]
    refused_signals: frozenset[str] = seccomp.SIGNALS
    """Refused as well where Landlock does not keep signals inside (before ABI 6)."""


def confine_fetch(request: FetchRequest, *, ports: Iterable[int], with_tls: bool = True) -> dict[str, object]:
    """Give up all that a process that only talks to one Git host has no use for, and say what was given up.

    Call it before any thread starts.

    :param ports: TCP ports of the Git host and of its platform's API; that of DNS is added.
    :param with_tls: may certificates be needed? To find out where they are takes a module that plain HTTP can spare.
    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(fetch_plan(request, ports=ports, with_tls=with_tls), min_level=request.min_level)


def confine_build(request: BuildRequest) -> dict[str, object]:
    """Give up all that a process that only writes its incoming folder has no use for, and say what was given up.

    Call it before any thread starts. Starting a second process with ``fork`` stays possible.

    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(build_plan(request), min_level=request.min_level)


def confine_search(request: SearchRequest) -> dict[str, object]:
    """Give up all that a process that only reads a pack from a pipe has no use for, and say what was given up.

    :raises IsolationUnavailable: the kernel offers less than ``request.min_level``.
    """
    return _confine(search_plan(request), min_level=request.min_level)


def available_level() -> int:
    """Return the level that a child on this machine would reach."""
    return _level(landlock.abi(), filtered=seccomp.available())


def die_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends.

    :param parent_pid: what the parent called itself, since it may be gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def fetch_plan(request: FetchRequest, *, ports: Iterable[int], with_tls: bool = True) -> Plan:
    """Return what the fetch child gives up."""
    certificates = _certificates(request.policy) if with_tls else ()
    return Plan(
        limits=_resource_limits(request.limits, file_bytes=0),
        umask=0o077,
        rules=landlock.Rules(
            read=(*_imports(), *_RESOLVER, *certificates),
            connect_ports=tuple(sorted({*ports, _DNS_PORT})),
        ),
        refused_calls=seccomp.ALWAYS,
    )


def build_plan(request: BuildRequest) -> Plan:
    """Return what the build child gives up."""
    limits = request.limits
    return Plan(
        limits=_resource_limits(limits, file_bytes=limits.disk_bytes + limits.wire_bytes),
        umask=0o027 if request.group_readable else 0o077,
        rules=landlock.Rules(read=_imports(), write=(request.incoming,)),
        refused_calls=seccomp.ALWAYS | seccomp.NETWORK,
    )


def search_plan(request: SearchRequest) -> Plan:
    """Return what the search for a commit gives up."""
    return Plan(
        limits=_resource_limits(request.limits, file_bytes=0),
        umask=0o077,
        rules=landlock.Rules(read=_imports()),
        refused_calls=seccomp.ALWAYS | seccomp.NETWORK,
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


def _imports() -> tuple[str, ...]:
    """Return what late imports read: libraries below the interpreter's prefixes, and our packages.

    Other entries of ``sys.path`` (a source checkout, an editable install) hold more than code, so of them only the
    packages are open.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    libraries = [os.path.join(prefix, name) for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    installed = [entry for entry in sys.path if os.path.basename(entry) in {"site-packages", "dist-packages"}]
    dulwich = [os.path.join(entry, "dulwich") for entry in sys.path]
    return tuple(dict.fromkeys([*_LIBRARIES, *libraries, *installed, _OWN_PACKAGE, *dulwich]))


def _certificates(policy: NetworkPolicy) -> tuple[str, ...]:
    found = ssl.get_default_verify_paths()
    candidates = (found.cafile, found.capath, found.openssl_cafile, found.openssl_capath, policy.ca_bundle)
    return (*_CERTIFICATES, *filter(None, candidates))


def _confine(plan: Plan, *, min_level: int) -> dict[str, object]:
    _offer_to_the_oom_killer()
    os.umask(plan.umask)
    for kind, (soft, hard) in plan.limits.items():
        _lower_limit(kind, soft, hard)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Closes /proc/self/mem and ptrace to other processes of the same user.
    _prctl(_PR_SET_DUMPABLE, 0)
    report: dict[str, object] = {}
    abi = _tried(lambda: landlock.restrict(plan.rules), report, "landlock_refused")
    scoped = abi >= 6
    calls = plan.refused_calls if scoped else plan.refused_calls | plan.refused_signals
    filtered = bool(_tried(lambda: seccomp.install(calls), report, "seccomp_refused"))
    level = _level(abi, filtered=filtered)
    if level < min_level:
        raise IsolationUnavailable(level=level, min_level=min_level)
    return {"level": level, "landlock_abi": abi, "tcp": abi >= 4, "scoped": scoped, "seccomp": filtered, **report}


def _level(abi: int, *, filtered: bool) -> int:
    if not abi:
        return 1
    return 3 if filtered else 2


def _tried(bind: Callable[[], int], report: dict[str, object], name: str) -> int:
    """Return what ``bind`` answers, or 0 with the error's name in the report: a lower level is no reason to stop."""
    try:
        return bind()
    except OSError as error:
        report[name] = errno.errorcode.get(error.errno or 0, "unknown")
        return 0


def _offer_to_the_oom_killer() -> None:
    """Make the kernel choose this process, not the worker, when the machine runs out of memory."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as adjustment:
            adjustment.write("800")
    except OSError:
        # No /proc, or a container that forbids it: a courtesy to the worker, no part of any level.
        return


def _lower_limit(kind: int, soft: int, hard: int) -> None:
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    unused = [ctypes.c_ulong(0)] * 3
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *unused):
        raise OSError(ctypes.get_errno(), "prctl")
