#!/usr/bin/env bash
# Four trainers per node with one daemon against four trainers with a daemon each of a quarter of the memory, over the
# capacity: the network rows of both and their ratio, as docs/performance.md shows them.
#
#   tests/measure/sharing.sh OUT
#
# GRAPHS, CAPACITIES and EPOCHS choose others; RUDDER names another program than target/release/rudder.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: sharing.sh OUT}"
mkdir -p "$out"
echo "| graph | capacity of the shared daemon | lookahead | shared: hits, % | network rows | private: hits, % | network rows | ratio |"
echo "|---|---|---|---|---|---|---|---|"
for graph in ${GRAPHS:-debian powerlaw:1000000}; do
  for capacity in ${CAPACITIES:-0.05 0.15 0.3 0.6}; do
    file="$out/${graph/:/-}.$capacity.json"
    [ -f "$file" ] || "$rudder" demo --graph "$graph" --nodes 4 --trainers 4 --private --dim 8 --epochs "${EPOCHS:-12}" \
      --policy epoch --lookahead 0,8 --capacity "$capacity" --json > "$file.part"
    [ -f "$file" ] || mv "$file.part" "$file"
    python3 - "$graph" "$capacity" "$file" <<'PYTHON'
import json
import sys

graph, capacity, file = sys.argv[1:]
with open(file) as text:
    report = json.load(text)
for pair in report["sharing"]:
    found = [run for run in report["runs"] if run["lookahead"] == pair["lookahead"]]
    shared, private = sorted(found, key=lambda run: run["private"])
    print(
        f"| {graph} | {100 * float(capacity):.0f} % | {pair['lookahead']} | {100 * shared['hit_rate']:.1f} "
        f"| {shared['network_rows']:,} | {100 * private['hit_rate']:.1f} | {private['network_rows']:,} | {pair['ratio']:.2f} |"
    )
PYTHON
  done
done
