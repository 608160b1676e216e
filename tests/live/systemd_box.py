"""A real systemd in a container of this machine's own files: booted, asked, and gone without a trace.

The root is an overlay over ``/`` whose upper side is in memory, so that a test may install what it likes. Everything happens in a mount
namespace of its own: when the container ends, so does the overlay. Needs root, and a kernel that allows both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from live_programs import absent, need, wait_for

PACKAGE = "systemd-container"

#: Makes the root and boots it. The services of the machine itself are not wanted in it; what the test asks for is run
#: by one unit.
BOOT = """
set -eu
shared=$1
mount -t tmpfs none "$shared/over"
mkdir "$shared/over/up" "$shared/over/work" "$shared/over/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$shared/over/up,workdir=$shared/over/work" "$shared/over/root"
root=$shared/over/root
# A copy of the package database: whoever installs something outside meanwhile must not pull it from under the test.
cp -a "$root/var/lib/dpkg" "$shared/over/dpkg"
rm -f "$shared"/over/dpkg/updates/* "$shared"/over/dpkg/lock*
mount --bind "$shared/over/dpkg" "$root/var/lib/dpkg"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
rm -f "$root"/etc/systemd/system/*.wants/* "$root"/etc/resolv.conf
mkdir -p "$root/etc/systemd/system/basic.target.wants"
cp "$shared/live-test.service" "$root/etc/systemd/system/"
ln -s ../live-test.service "$root/etc/systemd/system/basic.target.wants/"
exec systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --link-journal=no --private-network --console=pipe \\
  --bind="$shared/exchange:/exchange" --boot systemd.unit=basic.target systemd.show_status=no systemd.log_target=journal
"""

#: Runs the commands that the test puts into the exchange folder, one after the other, and answers beside them.
UNIT = """
[Unit]
Description=What the test asks for
After=dbus.socket
DefaultDependencies=yes

[Service]
ExecStart=/bin/sh /exchange/serve
KillMode=process
"""

SERVE = """
cd /exchange
touch booted
while [ ! -e over ]; do
  for ask in *.ask; do
    [ -e "$ask" ] || continue
    name=${ask%.ask}
    mv "$ask" "$name.sh"
    status=0
    sh "$name.sh" > "$name.out" 2>&1 || status=$?
    echo "$status" > "$name.new"
    mv "$name.new" "$name.status"
  done
  sleep 0.05
done
systemctl poweroff --force
"""


class Box:
    """A running container.

    Parameters
    ----------
    exchange : pathlib.Path
        Folder that both sides see, ``/exchange`` inside.
    """

    def __init__(self, exchange: Path) -> None:
        self.exchange, self.count = exchange, 0

    def run(self, script: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """Run shell commands as root inside; answers exit status and output."""
        self.count += 1
        name = self.exchange / f"{self.count:04}"
        name.with_suffix(".new").write_text(script)
        name.with_suffix(".new").rename(name.with_suffix(".ask"))
        status = name.with_suffix(".status")
        wait_for(f"inside the container: {script}", status.exists, timeout_s, 0.02)
        return int(status.read_text()), name.with_suffix(".out").read_text(errors="replace")

    def do(self, script: str, timeout_s: float = 60.0) -> str:
        """As :meth:`run`, and it must end with 0; answers the output without its last line end."""
        status, output = self.run(script, timeout_s)
        assert status == 0, f"{script}\nended with {status}:\n{output}"
        return output.rstrip("\n")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as ``systemctl show`` says it."""
        return self.do(f"systemctl show --value --property={name} {unit}")

    def json(self, path: str, port: int = 7401) -> dict[str, object]:
        """What the daemon's HTTP interface answers."""
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}').read().decode())"
        return json.loads(self.do(f'/usr/bin/env python3 -c "{code}"'))


@contextlib.contextmanager
def systemd_box() -> Iterator[Box]:
    """A booted container; its root is this machine's, and what is written there is forgotten."""
    need("systemd-nspawn", PACKAGE)
    unshare = need("unshare", "util-linux")
    if os.geteuid() != 0:
        absent("only root can boot a container")
    with tempfile.TemporaryDirectory(prefix="rudder-box-", dir="/tmp") as name:
        shared = Path(name)
        exchange = shared / "exchange"
        exchange.mkdir()
        (shared / "over").mkdir()
        (shared / "live-test.service").write_text(UNIT)
        (exchange / "serve").write_text(SERVE)
        with (shared / "console").open("wb") as console:
            process = subprocess.Popen([unshare, "--mount", "sh", "-c", BOOT, "boot", name], stdin=subprocess.DEVNULL, stdout=console,
                                       stderr=console, start_new_session=True)  # fmt: skip
        try:
            with contextlib.suppress(Exception):
                wait_for("systemd to boot", lambda: (exchange / "booted").exists() or process.poll() is not None, 60)
            if not (exchange / "booted").exists():
                absent(f"this machine cannot boot systemd in a container: {(shared / 'console').read_text(errors='replace')[-500:]}")
            yield Box(exchange)
        finally:
            (exchange / "over").touch()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
