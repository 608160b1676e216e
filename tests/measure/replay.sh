#!/usr/bin/env bash
# Every policy against Belady's optimum, as docs/performance.md shows it: records the accesses of the demo's power-law graph of
# a million vertices on four nodes, replays these traces and any others, and prints Markdown tables.
#
#   tests/measure/replay.sh OUT [TRACE...]
#
# OUT holds the traces and the results as JSON; what is there already is used again. Takes minutes. RUDDER names another
# program than target/release/rudder, EPOCHS another number than 12.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: replay.sh OUT [TRACE...]}"
shift
mkdir -p "$out"

if [ ! -f "$out/powerlaw/node3/meta.json" ]; then
  "$rudder" demo --graph powerlaw:1000000 --nodes 4 --epochs "${EPOCHS:-12}" --dim 16 --policy none \
    --trace "$out/powerlaw" --json > "$out/powerlaw.demo"
fi

results=()
# $1 names the results of a part; the rest are arguments of `rudder replay`.
part() {
  if [ ! -f "$out/$1.json" ]; then
    "$rudder" replay --json "${@:2}" > "$out/$1.part"
    mv "$out/$1.part" "$out/$1.json"
  fi
}
# $1 names the results, $2 is the trace. All policies without lookahead, `epoch` with several; and, as the choice of victims is
# `epoch`'s alone, the others with lookahead at one capacity only.
replay() {
  part "$1" "$2" --capacity 0.05,0.15,0.25,0.5 --policy all --lookahead 0
  part "$1.epoch" "$2" --capacity 0.05,0.15,0.25,0.5 --policy epoch --lookahead 0,8,16,2x,4x,8x,16x
  part "$1.staged" "$2" --capacity 0.15 --policy all --lookahead 0,8,16,4x
  results+=("$out/$1.json")
}
for node in 0 1 2 3; do
  replay "powerlaw-node$node" "$out/powerlaw/node$node"
done
for trace in "$@"; do
  replay "$(basename "$trace")" "$trace"
done
python3 "$here/replay_table.py" "${results[@]}"
