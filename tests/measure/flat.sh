#!/usr/bin/env bash
# Whether the cost of a fetch depends on the size of the cache (10^5 to 10^7 rows), and whether clients at once get more than
# one alone until the cores are full. The sizes run in turns, several rounds; medians and ratios at the end.
#
#   tests/measure/flat.sh OUT
#
# The machine must be idle. DIM floats per row (128: the largest run takes 5 GB of disk in TMPDIR and 11 GB of memory), ROUNDS
# (5), SIZES, CLIENTS; RUDDER names another program than target/release/rudder.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: flat.sh OUT}"
mkdir -p "$out"
for round in $(seq "${ROUNDS:-5}"); do
  for rows in ${SIZES:-100000 1000000 10000000}; do
    "$rudder" bench fetch --rows 20000 --repeat 31 --dim "${DIM:-128}" --cached-rows "$rows" \
      --clients "${CLIENTS:-1,2,4,8}" --json > "$out/$rows.$round.part"
    mv "$out/$rows.$round.part" "$out/$rows.$round.json"
  done
done
python3 "$here/flat_table.py" "$out"/*.json
