"""Print ``requirements.txt`` with what ``setup.cfg`` asks for at the lowest versions that it allows."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWEST = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extra>\w+)])?>=(?P<version>[\d.]+)")


def main() -> None:
    """Write the lines to standard output."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"] + "\n" + "\n".join(config["options.extras_require"].values())
    versions = {}
    for match in LOWEST.finditer(wanted):
        versions[match["name"].lower()] = match["version"]
        if match["extra"]:  # psycopg[binary] is a package of its own, in the same version
            versions[f"{match['name']}-{match['extra']}".lower()] = match["version"]

    for line in (ROOT / "requirements.txt").read_text().splitlines():
        pinned = re.match(r"[\w.-]+", line)
        name = pinned[0].lower() if pinned else ""
        sys.stdout.write(re.sub(r"==[^;\s]+", f"=={versions[name]}", line) if name in versions else line)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
