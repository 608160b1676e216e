#!/usr/bin/env bash
# The running system against replay: network rows of each node of a demo against `rudder replay` of the trace that was recorded
# in that very run, for every policy, with and without lookahead. The target is 3 %. Says the greatest difference of each.
#
#   tests/measure/parity.sh OUT
#
# GRAPH (debian), NODES (2), TRAINERS (1), EPOCHS (6), POLICIES, LOOKAHEADS choose others; RUDDER another program.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: parity.sh OUT}"
mkdir -p "$out"
echo "| policy | lookahead | network rows, demo | replay | greatest difference of a node, % | stalled rows after the first epoch, % |"
echo "|---|---|---|---|---|---|"
for policy in ${POLICIES:-none static periodic rudder lru lfu tinylfu s3fifo sieve epoch}; do
  for lookahead in ${LOOKAHEADS:-0 8}; do
    rm -rf "$out/trace"
    "$rudder" demo --graph "${GRAPH:-debian}" --nodes "${NODES:-2}" --trainers "${TRAINERS:-1}" --epochs "${EPOCHS:-6}" \
      --dim 8 --policy "$policy" --lookahead "$lookahead" --trace "$out/trace" --json > "$out/demo.json"
    python3 - "$rudder" "$out" "${TRAINERS:-1}" <<'PYTHON'
import json
import subprocess
import sys

rudder, out, trainers = sys.argv[1:]
with open(f"{out}/demo.json") as text:
    run = json.load(text)["runs"][0]
moved = []
for daemon in run["daemons"]:
    words = [rudder, "replay", f"{out}/trace/node{daemon['node']}", "--json", "--policy", run["policy"]]
    # A trace is one sequence of minibatches: what each of several trainers announces and has staged adds up.
    words += ["--lookahead", str(run["lookahead"] * int(trainers)), "--depth", str(2 * int(trainers))]
    words += ["--capacity", str(max(1, daemon["capacity_rows"]))]
    replayed = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["results"][0]
    moved.append((daemon["network_rows"], replayed["network_rows"]))
worst = max((100 * (real / replay - 1) for real, replay in moved), key=abs)
real, replay = (sum(side) for side in zip(*moved))
stalled = 100 * run["later_stall_share"]
print(f"| {run['policy']} | {run['lookahead']} | {real:,} | {replay:,} | {worst:+.2f} | {stalled:.2f} |")
PYTHON
  done
done
