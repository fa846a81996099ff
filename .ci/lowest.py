"""Print ``requirements.txt`` with what ``setup.cfg`` asks for at the lowest versions that it allows."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWEST = re.compile(r"(?P<name>[\w.-]+)(\[\w+])?>=(?P<version>[\d.]+)")


def main() -> None:
    """Write the lines to standard output."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"] + "\n" + "\n".join(config["options.extras_require"].values())
    versions = {match["name"].lower(): match["version"] for match in LOWEST.finditer(wanted)}

    # What those need themselves follows from them: its pins belong to the newest versions.
    lines = (ROOT / "requirements.txt").read_text().partition("# What those need themselves")[0]
    for line in lines.splitlines():
        pinned = re.match(r"[\w.-]+", line)
        name = pinned[0].lower() if pinned else ""
        sys.stdout.write(re.sub(r"==[^;\s]+", f"=={versions[name]}", line) if name in versions else line)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
