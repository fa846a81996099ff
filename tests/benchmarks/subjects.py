"""One clone or probe in a process of its own, measured from inside.

Called as ``python -m tests.benchmarks.subjects SUBJECT URL FOLDER``.
Prints one JSON object. Importing and the start of the fork server are not counted: a worker that clones has long been
running. What either does for the clone is, and all of what they start. The clone stays in ``FOLDER``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coderepos.git.clone import CloneRequest, clone, fetch_request
from coderepos.git.fetch import fetch
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.probe import probe
from coderepos.git.process.child import Child, starting
from coderepos.git.transport.pkt_line import DELIM_PKT, FLUSH_PKT, pkt_line
from coderepos.git.url import parse_git_url
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox

LIMITS = Limits(wire_bytes=10**9, disk_bytes=2 * 10**9, clone_seconds=600)


def main(subject: str, url: str, folder: str) -> int:
    """Measure one run of a subject and print its figures."""
    with _OurChildren() as ours, _PeakMemory() as peak:
        run = SUBJECTS[subject]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        own_cpu, started = time.process_time(), time.monotonic()
        told = run(url, Path(folder)) or {}
        wall_seconds = time.monotonic() - started
        peak.stop()
        own_cpu = time.process_time() - peak.cpu_seconds - own_cpu
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = own_cpu + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + ours.cpu_seconds()
    peak_mb = {**peak.by_child_mb(), **ours.peak_mb}
    print(json.dumps({"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb, **told}))
    return 0


def _our_request(url: str, depth: int | None) -> CloneRequest:
    host = url.split("/")[2]
    return CloneRequest(
        url=url,
        credentials=None,
        ref="",
        depth=depth,
        policy=NetworkPolicy(private_hosts=(host,), insecure_http_hosts=(host,)),
        limits=LIMITS,
        min_level=1,
        group_readable=False,
    )


def _our_clone(depth: int | None) -> Callable[[str, Path], dict[str, Any]]:
    def run(url: str, folder: Path) -> dict[str, Any]:
        root = SandboxRoot(folder / "root")
        root.prepare(str(uuid.uuid4()))
        sandbox = Sandbox(root, "project", "repository")
        incoming = sandbox.create_incoming("version")
        report = clone(_our_request(url, depth), incoming=incoming, on_progress=lambda progress: None)
        sandbox.finish_incoming("version")
        sandbox.activate("version")
        return {
            "received_bytes": report.received_bytes,
            "objects": report.build.objects,
            "level": report.isolation_level,
            "phases": report.build.seconds,
        }

    return run


def _our_probe(url: str, folder: Path) -> dict[str, Any]:
    report = probe(_our_request(url, None), seconds=600)
    return {"received_bytes": report.pack_bytes}


def _our_exchange(url: str, folder: Path) -> dict[str, Any]:
    """Do what the child of a probe does once it is started."""
    request = fetch_request(_our_request(url, None), depth=1, count_only=True)
    with open(os.devnull, "wb") as nowhere:
        outcome = fetch(request, parse_git_url(request.url, request.policy), nowhere.fileno(), lambda event: None)
    return {"received_bytes": outcome["pack_bytes"]}


def _curl(url: str, folder: Path) -> dict[str, Any]:
    """Fetch the bytes of a probe with one process that parses nothing; how to ask for them is found out before."""
    wanted = subprocess.run(["git", "ls-remote", url, "HEAD"], check=True, capture_output=True).stdout[:40]
    bodies = (
        _command(b"ls-refs", b"symrefs", b"ref-prefix HEAD", b"ref-prefix refs/heads/"),
        _command(b"fetch", b"ofs-delta", b"deepen 1", b"want " + wanted, b"done"),
    )
    options = ["--silent", "--fail", "--output", os.devnull, "--header", "Git-Protocol: version=2"]
    command = ["curl", *options, f"{url}/info/refs?service=git-upload-pack"]
    for number, body in enumerate(bodies):
        (folder / f"body-{number}").write_bytes(body)
        command += ["--next", *options, "--header", "Content-Type: application/x-git-upload-pack-request"]
        command += ["--data-binary", f"@{folder}/body-{number}", f"{url}/git-upload-pack"]
    started = time.monotonic()
    subprocess.run(command, check=True)
    return {"wall_seconds": time.monotonic() - started}


def _command(name: bytes, *arguments: bytes) -> bytes:
    """Return a request of protocol version 2."""
    lines = [pkt_line(b"command=" + name), pkt_line(b"object-format=sha1"), DELIM_PKT, *map(pkt_line, arguments)]
    return b"".join([*lines, FLUSH_PKT])


def _git(*options: str) -> Callable[[str, Path], None]:
    def run(url: str, folder: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", "clone", "--quiet", *options, url, folder / "git"], env=environment, check=True)

    return run


def _dulwich(depth: int | None) -> Callable[[str, Path], None]:
    def run(url: str, folder: Path) -> None:
        code = (
            "import sys; from dulwich import porcelain; url, path, depth = sys.argv[1:];"
            "porcelain.clone(url, path, depth=int(depth) or None, errstream=open('/dev/null', 'wb')).close()"
        )
        arguments = [sys.executable, "-c", code, url, str(folder / "dulwich"), str(depth or 0)]
        subprocess.run(arguments, env={"PATH": os.environ["PATH"], "HOME": str(folder)}, check=True)

    return run


SUBJECTS: dict[str, Callable[[str, Path], dict[str, Any] | None]] = {
    "probe": _our_probe,
    "clone, depth 1": _our_clone(1),
    "clone, full": _our_clone(None),
    "git, depth 1": _git("--depth=1"),
    "git, full": _git("--single-branch", "--no-tags"),
    "dulwich, depth 1": _dulwich(1),
    "dulwich, full": _dulwich(None),
    "exchange of a probe": _our_exchange,
    "curl, the same bytes": _curl,
}


class _OurChildren:
    """Adds up what the fork server and its children take: this process is not the one that reaps them."""

    def __enter__(self) -> _OurChildren:
        self.peak_mb: dict[str, float] = {}
        self._ended: list[Mapping[str, Any]] = []
        self._end = Child.end
        self._wait_for_server()
        self._server_started_at_seconds = self._ended.pop()["server_cpu_seconds"]
        Child.end = self._recorded_end()  # type: ignore[assignment,method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Child.end = self._end  # type: ignore[method-assign]

    def cpu_seconds(self) -> float:
        """Return the processor time of all children, and of the server since it was ready."""
        if not self._ended:
            return 0
        server_seconds = self._ended[-1]["server_cpu_seconds"] - self._server_started_at_seconds
        return float(server_seconds + sum(one["cpu_seconds"] for one in self._ended))

    def _wait_for_server(self) -> None:
        with open(os.devnull, "wb") as nowhere, starting():
            child = Child("fetch", "coderepos.git.fetch", nowhere.fileno())
        child.send(b"no request\n", last=True)
        child.exit_status(within_seconds=60)
        child.end()
        self._ended.append(child.usage)

    def _recorded_end(self) -> Callable[[Child], None]:
        def end(child: Child) -> None:
            self._end(child)
            self._ended.append(child.usage)
            self.peak_mb[child.name] = round(child.usage["peak_bytes"] / 10**6, 1)

        return end


class _PeakMemory:
    """Samples the peak resident memory that the kernel counts for every process below this one, our own aside."""

    def __enter__(self) -> _PeakMemory:
        self.cpu_seconds = 0.0
        """What the sampling took itself; complete once it was stopped."""
        self._peaks_kb: dict[int, tuple[str, int]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more samples."""
        self._done.set()
        self._thread.join()

    def by_child_mb(self) -> dict[str, float]:
        """Return the largest peak in MB by what the process runs."""
        found: dict[str, float] = {}
        for name, peak_kb in self._peaks_kb.values():
            found[name] = max(found.get(name, 0), round(peak_kb * 1024 / 10**6, 1))
        return found

    def _sample(self) -> None:
        while not self._done.wait(0.01):
            for pid in _below(os.getpid()):
                try:
                    status = Path(f"/proc/{pid}/status").read_text(errors="replace")
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if "VmHWM:" in status and "coderepos.git.preload" not in command:
                    peak_kb = int(status.split("VmHWM:")[1].split()[0])
                    self._peaks_kb[pid] = (_name(command), peak_kb)
            self.cpu_seconds = time.thread_time()


def _below(pid: int) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        one = todo.pop()
        try:
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += map(int, children)
        todo += map(int, children)
    return found


def _name(command: str) -> str:
    for name in ("index-pack", "remote-http", "dulwich"):
        if name in command:
            return name
    return command.split(" ")[0].rsplit("/", 1)[-1]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
