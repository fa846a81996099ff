"""Connects and clones like a worker, in a process of its own that tests may start as another user, or kill.

Prints one JSON object per line: every progress, then the report or the error's code.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coderepos.exceptions import CodeReposError
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.probe import probe
from coderepos.git.results import Progress
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Probe and clone a repository into a sandbox, and return both reports."""
    request = CloneRequest(
        url=given["url"],
        credentials=None,
        ref="",
        depth=given.get("depth"),
        policy=NetworkPolicy(private_hosts=(given["host"],), insecure_http_hosts=(given["host"],)),
        limits=Limits(clone_seconds=given.get("seconds", 60)),
        min_level=1,
        group_readable=False,
    )
    root = SandboxRoot(Path(given["root"]))
    root.prepare("tests")
    sandbox = Sandbox(root, "project", "repository")
    probed = probe(request, seconds=20)
    incoming = sandbox.create_incoming(given["token"])
    report = clone(request, incoming=incoming, on_progress=tell)
    sandbox.finish_incoming(given["token"])
    replaced = sandbox.tokens() - {given["token"]}
    sandbox.activate(given["token"])
    for token in replaced:
        sandbox.discard(token)
    return {"probe": asdict(probed), "clone": asdict(report)}


def tell(progress: Progress) -> None:
    """Print how far it is."""
    print(json.dumps(asdict(progress)), flush=True)


def main() -> None:
    """Do what the JSON object in the first argument says."""
    try:
        print(json.dumps(work(json.loads(sys.argv[1]))), flush=True)
    except CodeReposError as error:
        print(json.dumps({"error": error.code}), flush=True)


if __name__ == "__main__":
    main()
