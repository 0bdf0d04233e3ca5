#!/bin/bash
# The proofs that take longer than `make test` may: reloads, kills, stops and upgrades under full load, for SOAK_SECONDS
# each (60), and SOAK_RELOADS (1000) reloads in a row. Arguments pick some of tests/soak/*_soak.lua by name. Figures are
# asserted here and nowhere else. Every suite speaks TAP and shows on standard error what it does; one that dies without
# saying why counts as failed. Ends with one line: N passed, N failed.
set -u
cd "$(dirname "$0")/../.." || exit 1
export BUILD=${BUILD:-build} SOAK_SECONDS=${SOAK_SECONDS:-60} SOAK_RELOADS=${SOAK_RELOADS:-1000}
export CHOWK; CHOWK=$(realpath -m "$BUILD/chowk")
export CHOWK_ADMIN_LISTEN=off
logs=$BUILD/soak-logs
rm -rf "$logs" && mkdir -p "$logs"
passed=0 failed=0

. tests/services.sh
trap services_stop EXIT
trap 'exit 130' INT TERM
services_start || { echo '0 passed, 1 failed'; exit 1; }

[ $# -gt 0 ] || set -- $(for suite in tests/soak/*_soak.lua; do basename "$suite" _soak.lua; done)
limit=$((SOAK_SECONDS * 20 + SOAK_RELOADS * 2 + 300)) # far more than any takes: one that hangs fails
for name in "$@"; do
  echo "== $name"
  log=$logs/$name.log
  timeout -k 10 $limit busted --lua=luajit -o TAP --lpath='./?.lua' "tests/soak/${name}_soak.lua" >"$log"
  rc=$?
  grep -E '^ok' "$log"
  ok=$(grep -cE '^ok( |$)' "$log") bad=$(grep -cE '^not ok( |$)' "$log")
  [ "$bad" -gt 0 ] || { [ $rc -eq 0 ] && [ "$ok" -gt 0 ]; } || bad=1
  [ "$bad" -eq 0 ] || grep -vE '^ok( |$)' "$log" | tail -n 60
  passed=$((passed + ok)) failed=$((failed + bad))
done
echo "logs: $logs"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
