#!/usr/bin/env python3
"""Writes the Grafana dashboards of Rudder into this folder: ``dashboards/build.py``; with ``--check`` it only compares.

Owns which dashboards there are; each is a module that says what it shows, and ``parts.py`` knows Grafana's JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import agent
import cluster
import node
import peers
from parts import Dashboard

FOLDER = Path(__file__).resolve().parent

DASHBOARDS: tuple[Dashboard, ...] = (cluster.DASHBOARD, node.DASHBOARD, agent.DASHBOARD, peers.DASHBOARD)


def main() -> int:
    """Write the files, or say which are not what the program gives."""
    parser = argparse.ArgumentParser(description="Writes the Grafana dashboards of Rudder.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what would be written")
    check = parser.parse_args().check
    wrong = []
    for dashboard in DASHBOARDS:
        path = FOLDER / f"{dashboard.uid}.json"
        if not check:
            path.write_text(dashboard.text(), encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != dashboard.text():
            wrong.append(path.name)
    if wrong:
        print(f"not what dashboards/build.py gives: {', '.join(wrong)}; run it and commit the files", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
