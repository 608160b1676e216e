#!/usr/bin/env bash
# Every controller that needs no model server over traces, as docs/performance.md shows it: the cache begins at 5% of the distinct rows and may grow to
# 25%. Records a trace of the demo whose accesses shift half-way, replays it and any others, with rows that stay as they are and with rows
# that their owners change, and prints Markdown tables.
#
#   tests/measure/controllers.sh OUT [TRACE...]
#
# OUT holds the trace and the results as JSON; what is there already is used again. RUDDER names another program than
# target/release/rudder, WINDOW another number of minibatches per decision than 4, CONTROLLERS others than those below,
# UPDATES another number of changed rows per minibatch than 20.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: controllers.sh OUT [TRACE...]}"
shift
mkdir -p "$out"
controllers="${CONTROLLERS:-off,rules,schedule:1,schedule:5,schedule:10,schedule:20,schedule:50,contrary}"

if [ ! -f "$out/shift/node0/meta.json" ]; then
  "$rudder" demo --epochs 12 --shift 6 --policy none --trace "$out/shift" --json > "$out/shift.demo"
fi
results=()
for trace in "$out/shift/node0" "$@"; do
  for updates in 0 "${UPDATES:-20}"; do
    name="$(basename "$(dirname "$trace")")-$(basename "$trace")-$updates"
    if [ ! -f "$out/$name.json" ]; then
      "$rudder" replay "$trace" --capacity 0.05 --ceiling 0.25 --policy epoch --window "${WINDOW:-4}" --updates "$updates" \
        --controller "$controllers" --json > "$out/$name.part"
      mv "$out/$name.part" "$out/$name.json"
    fi
    results+=("$out/$name.json")
  done
done
python3 "$here/controllers_table.py" "${results[@]}"
