"""A stranger's first minute: from a wheel in an empty environment to rows by the ids of an own file, typed and timed.

Makes an edge list as ``numpy.savetxt`` writes it and a feature array, then runs what README says: install, import, up.
It compares all rows with the source file, by original ids. The download of NumPy is timed apart. The script itself needs
nothing but Python's standard library.

    python3 tests/measure/first_minute.py WHEEL
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The user's own data: 20,000 vertices, 100,000 edges, 64 floats per vertex.
MAKE = """
import numpy as np
rng = np.random.default_rng(7)
np.savetxt("edges.txt", rng.integers(0, 20000, (100000, 2)))
np.save("feat.npy", rng.random((20000, 64), dtype="f4"))
"""

#: What a trainer types, and then the comparison of every row.
FETCH = """
import numpy as np
import rudder
client = rudder.connect()
rows = client.fetch("feat", [3, 1, 4])
source = np.load("feat.npy")
print(rows[:, :3])
print("equal to feat.npy[[3, 1, 4]]:", np.array_equal(rows, source[[3, 1, 4]]))
order = np.random.default_rng(1).permutation(len(source))
wrong = (client.fetch("feat", order) != source[order]).any(1).sum()
print("wrong rows of", len(source), "in random order:", int(wrong))
there = rudder.connect(ids="dataset")
same = np.array_equal(there.fetch("feat", [3, 1, 4]), source[[3, 1, 4]])
print("with ids='dataset' the same ids are other vertices:", not same)
"""


def run(folder: Path, environment: dict[str, str], command: str) -> float:
    """Type one line at a prompt, and answer how many seconds it took."""
    print(f"$ {command}", flush=True)
    begin = time.monotonic()
    subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
    return time.monotonic() - begin


def main() -> None:
    """Run the session and print its times."""
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="first-minute-") as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RUDDER")}
        environment["PATH"] = f"{folder}/env/bin:{environment['PATH']}"
        environment["XDG_RUNTIME_DIR"] = name
        seconds = {"make the environment": run(folder, environment, "python3 -m venv env")}
        seconds["download and install numpy"] = run(folder, environment, "pip install -q numpy")
        (folder / "make.py").write_text(MAKE, encoding="utf-8")
        (folder / "fetch.py").write_text(FETCH, encoding="utf-8")
        run(folder, environment, "python make.py && head -n 2 edges.txt")
        seconds["install"] = run(folder, environment, f"pip install -q {wheel}")
        line = "rudder import edges edges.txt --table feat=feat.npy --parts 2 --out ds"
        seconds["import"] = run(folder, environment, line)
        try:
            start = 'eval "$(rudder up ds --detach)" && env | grep ^RUDDER_SOCKET > socket'
            seconds["up"] = run(folder, environment, start)
            environment.update(dict([(folder / "socket").read_text(encoding="utf-8").strip().split("=", 1)]))
            seconds["get"] = run(folder, environment, "rudder get feat 3 1 4 --limit 3")
            seconds["fetch"] = run(folder, environment, "python fetch.py")
        finally:
            seconds["down"] = run(folder, environment, "rudder down ds")
    for what, took in seconds.items():
        print(f"{took:7.2f} s  {what}")
    counted = sum(seconds[what] for what in ("install", "import", "up", "get"))
    print(f"{counted:7.2f} s  from the wheel to the first remote rows: install, import, up, get")


if __name__ == "__main__":
    main()
