"""A stranger's path, timed: from a machine with a real systemd and the package to dashboards with data, by the words of ``docs/`` alone.

Boots systemd in a container over this machine's files (``tests/live/systemd_box.py``; needs root, and the Debian packages ``systemd-container``
and ``prometheus``), and types what ``docs/deploy.md`` and ``docs/dashboards.md`` say: install, import, certificates, configuration, start;
a second daemon (``rudderd@second``) as the second node; a trainer; Prometheus with the rules; then every query of the node's dashboard but those
of blocks, until each has data. Grafana itself is not part of it. The trainer is the Python package, from the environment that ``tests/run`` makes:

    target/python-tests/bin/python tests/measure/stranger.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "live"))
import boards  # noqa: E402
from systemd_box import Box, systemd_box  # noqa: E402

#: What the first daemon has none of: blocks of a shard on a slow disk.
ABSENT = "_block"
#: As in prometheus.yml.
SCRAPE_S = 15
PATIENCE_S = 300.0

TRAINER = """
import time, numpy, rudder
client = rudder.connect("/run/rudder/rudder.sock")
draw = numpy.random.default_rng(1)
seeds = draw.permutation(20000)
for epoch in range(1000):
    for step in range(20):
        ids = numpy.unique(numpy.concatenate([seeds[step * 1000:(step + 1) * 1000], draw.zipf(1.4, 3000) % 20000]))
        client.fetch("feat", ids)
        client.progress(epoch=epoch, step=step, steps_per_epoch=20)
        time.sleep(0.01)
"""


def ask(box: Box, queries: dict[str, str]) -> dict[str, str]:
    """What Prometheus answers to each query that has an answer: how many series, and the number of the first."""
    (box.exchange / "queries.json").write_text(json.dumps({name: quote(query) for name, query in queries.items()}))
    code = """
import json, urllib.request
found = {}
for name, query in json.load(open("/exchange/queries.json")).items():
    answer = urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?query=" + query).read()
    result = json.loads(answer)["data"]["result"]
    if result:
        found[name] = f"{len(result)} series, {result[0]['value'][1]}"
print(json.dumps(found))
"""
    (box.exchange / "ask.py").write_text(code)
    return json.loads(box.do("python3 /exchange/ask.py"))


def node_queries() -> dict[str, str]:
    """Every query of the panels of the node's dashboard, as Grafana sends it for the first daemon."""
    # Marks are there for a minute only.
    asked = [one for one in boards.asked() if one.board == "Rudder / Node" and one.kind != "annotation" and ABSENT not in one.expr]
    return {
        f"{number:02} {one.panel}" + (f": {one.legend}" if one.legend else ""): one.filled("rudder", "127.0.0.1:7401", SCRAPE_S, SCRAPE_S)
        for number, one in enumerate(asked)
    }


def main() -> None:
    """Walk the path and print how long each part took."""
    begun = time.monotonic()
    last = begun

    def part(what: str) -> None:
        nonlocal last
        now = time.monotonic()
        print(f"{now - begun:6.1f} s  (+{now - last:.1f})  {what}", flush=True)
        last = now

    package = Path(subprocess.run([REPOSITORY / "deploy/package.sh"], check=True, capture_output=True, text=True).stdout.strip())
    part(f"package built: {package.name}, {package.stat().st_size / 1e6:.0f} MB")
    with systemd_box() as box:
        part("an empty machine booted")
        shutil.copy(package, box.exchange / "rudder.deb")
        np.save(box.exchange / "feat.npy", np.random.default_rng(1).random((20_000, 64), dtype=np.float32))
        (box.exchange / "train.py").write_text(TRAINER)
        box.do("systemctl mask systemd-networkd-wait-online NetworkManager-wait-online")
        box.do("dpkg --install /exchange/rudder.deb", 120)
        part("package installed")
        box.do("rudder import npy --out /srv/rudder/data --parts 2 --table feat=/exchange/feat.npy")
        box.do("cd /root && rudder certs init --out pki --cluster prod && for n in 0 1; do rudder certs issue --authority pki --node $n; done")
        part("dataset imported, certificates made")
        box.do(
            "install -o root -g rudder -m 0640 /root/pki/ca.pem /etc/rudder/ca.pem; for n in 0 1; do for e in pem key; do"
            " install -o root -g rudder -m 0640 /root/pki/node-$n.$e /etc/rudder/node-$n.$e; done; done;"
            " cp /etc/rudder/node-0.pem /etc/rudder/node.pem; cp /etc/rudder/node-0.key /etc/rudder/node.key;"
            " chown root:rudder /etc/rudder/node.*; chmod 0640 /etc/rudder/node.*"
        )
        shown = box.do("cat /etc/rudder/rudderd.toml")
        configuration = """
[node]
[dataset]
path = "/srv/rudder/data"
[local]
socket = "/run/rudder/rudder.sock"
allowed_by = "mode"
[peers.addresses]
0 = "127.0.0.1:7400"
1 = "127.0.0.1:7410"
[agent]
window_ms = 1000
"""
        assert "[dataset]" in shown and "[peers" in shown, shown
        box.do(f"cat > /etc/rudder/rudderd.toml <<'EOF'\n{configuration}EOF\necho RUDDER_NODE__INDEX=0 >> /etc/default/rudder")
        second = configuration.replace("[node]", "[node]\nindex = 1").replace("/run/rudder/", "/run/rudder-second/")
        second = second.replace("[peers.addresses]", '[peers]\nlisten = "127.0.0.1:7410"\ncertificate = "/etc/rudder/node-1.pem"\nkey = "/etc/rudder/node-1.key"\n[peers.addresses]')
        second += '[admin]\nlisten = "127.0.0.1:7411"\n'
        box.do(f"cat > /etc/rudder/second.toml <<'EOF'\n{second}EOF\nsystemd-tmpfiles --create rudder.conf")
        box.do("systemctl enable --now rudderd rudderd@second", 90)
        part("both daemons serve")
        print(box.do("rudder status"))
        box.do(f"systemd-run --quiet --unit=trainer {sys.executable} /exchange/train.py")
        box.do(
            "mkdir -p /etc/prometheus && cp -r /usr/share/rudder/deploy/prometheus /etc/prometheus/rudder && cd /etc/prometheus/rudder &&"
            " sed -i '/authorization:/,/credentials_file:/d' prometheus.yml && promtool check config prometheus.yml &&"
            """ echo '[{"targets": ["127.0.0.1:7401", "127.0.0.1:7411"]}]' > targets/rudder.json &&"""
            " systemd-run --quiet --unit=watch prometheus --config.file=/etc/prometheus/rudder/prometheus.yml"
            " --storage.tsdb.path=/var/lib/watch --web.listen-address=127.0.0.1:9090"
        )
        part("a trainer runs, Prometheus watches")
        question = "/api/v1/query?query=sum(instance:rudder_hit_ratio:rate5m)"
        while not json.dumps(found := box.json(question, 9090)).count('"value"'):
            assert time.monotonic() - last < 180, found
            time.sleep(1)
        part(f"the first recorded hit rate: {found['data']['result'][0]['value'][1]}")
        queries, seen = node_queries(), {}
        while missing := [name for name in queries if name not in seen]:
            assert time.monotonic() - last < PATIENCE_S, f"no data: {missing}"
            seen |= ask(box, {name: queries[name] for name in missing})
        for name in queries:
            print(f"  {name} = {seen[name]}")
        part(f"all {len(queries)} queries of the node's dashboard have data")


if __name__ == "__main__":
    main()
