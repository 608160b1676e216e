"""A stranger's path, timed: from a machine with a real systemd and the package to dashboards with data, by the words of ``docs/`` alone.

Boots systemd in a container over this machine's files (``tests/live/systemd_box.py``; needs root, and the Debian packages ``systemd-container``
and ``prometheus``), and types what ``docs/deploy.md`` and ``docs/dashboards.md`` say: install, import, certificates, configuration, start;
a second daemon as the second node; a trainer; Prometheus with the rules; then every query of the node's dashboard. Grafana itself is not
part of it. The trainer is the Python package, from the environment that ``tests/run`` makes:

    target/python-tests/bin/python tests/measure/stranger.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "live"))
from systemd_box import systemd_box  # noqa: E402

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
        second = configuration.replace("[node]", "[node]\nindex = 1").replace("/run/rudder/", "/run/rudder-1/")
        second = second.replace("[peers.addresses]", '[peers]\nlisten = "127.0.0.1:7410"\ncertificate = "/etc/rudder/node-1.pem"\nkey = "/etc/rudder/node-1.key"\n[peers.addresses]')
        second += '[admin]\nlisten = "127.0.0.1:7411"\n'
        box.do(
            f"cat > /etc/rudder/second.toml <<'EOF'\n{second}EOF\n"
            "sed -e 's|/etc/rudder/rudderd.toml|/etc/rudder/second.toml|g' -e 's|^RuntimeDirectory=.*|RuntimeDirectory=rudder-1|'"
            " -e 's|^StateDirectory=.*|StateDirectory=rudder-1|' -e '/^EnvironmentFile=/d' /usr/lib/systemd/system/rudderd.service"
            " > /etc/systemd/system/rudderd-second.service && systemctl daemon-reload"
        )
        box.do("systemctl enable --now rudderd && systemctl start rudderd-second", 90)
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
        boards = json.loads((REPOSITORY / "dashboards/rudder-node.json").read_text())
        shown = [panel["title"] for panel in boards["panels"] if panel["type"] == "stat"]
        print(f"stat panels of the node's dashboard: {', '.join(shown)}")
        for name in ("rudder_ready", "rudder_hit_ratio", "rate(rudder_fetch_rows_total[1m])", "rudder_cache_rows", "rudder_agent_decisions_total>0"):
            result = box.json(f"/api/v1/query?query={name}".replace(">", "%3E").replace("[", "%5B").replace("]", "%5D"), 9090)["data"]["result"]
            print(f"  {name}: {len(result)} series, {result[0]['value'][1]}")
            assert result, name
        part("dashboards have data")


if __name__ == "__main__":
    main()
