#!/bin/bash
# Runs the kinds of tests named as arguments (unit fuzz lint spec wire), shows each suite as it ends, and closes with one
# line: N passed, N failed. Every suite speaks TAP; one that dies without saying why counts as failed.
#
# Most suites wait more than they work, so they run in lanes side by side: the specs in two, all else in one. Each lane
# has a private PostgreSQL and Redis of its own, so that none can disturb another's.
set -u
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build}
export CHOWK; CHOWK=$(realpath -m "$BUILD/chowk")
export CHOWK_ADMIN_LISTEN=off # servers run side by side: a spec that wants an admin listener says where
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0:exitcode=99} UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
logs=$BUILD/test-logs
rm -rf "$logs" && mkdir -p "$logs"
results=$logs/results
: >"$results"

. tests/services.sh

suite() { # name, command…
  local name=$1 log start ok bad rc skipped
  log=$logs/${name//\//-}.log
  shift
  start=$(date +%s%N)
  timeout -k 10 300 "$@" >"$log" 2>&1 # a suite that hangs fails; it must not stop the others
  rc=$?
  ok=$(grep -cE '^ok( |$)' "$log")
  bad=$(grep -cE '^not ok( |$)' "$log")
  # A skipped test proved nothing, and a suite with no test or a bad exit failed in silence.
  skipped=$(grep -ciE '^ok .*# *skip' "$log")
  ok=$((ok - skipped)) bad=$((bad + skipped))
  [ "$bad" -gt 0 ] || { [ $rc -eq 0 ] && [ "$ok" -gt 0 ]; } || bad=1
  echo "$ok $bad" >>"$results"
  { # one write, so that lanes do not mix their lines
    printf '%-44s %4d passed %3d failed %6d ms\n' "$name" "$ok" "$bad" $((($(date +%s%N) - start) / 1000000))
    [ "$bad" -eq 0 ] || { grep -vE '^ok( |$)' "$log" | tail -n 60 | sed 's/^/    /'; }
  } >"$log.shown"
  cat "$log.shown"
  rm "$log.shown"
}

run_unit() {
  local test
  for test in tests/unit/*/*_test.c; do
    test=${test#tests/unit/}
    suite "unit/${test%_test.c}" env CMOCKA_MESSAGE_OUTPUT=TAP "$BUILD/unit/${test%.c}"
  done
}
# The fuzzers' corpora through the fuzzers' targets, without a fuzzer (tests/fuzz/replay.c).
run_fuzz() {
  local target
  for target in tests/fuzz/*_fuzz.c; do
    target=${target#tests/fuzz/} target=${target%_fuzz.c}
    suite "fuzz/$target" "$BUILD/replay/${target}_fuzz" tests/fuzz/corpus/"$target"/*
  done
}
run_lint() { suite lint bash -c 'if make --no-print-directory lint; then echo "ok 1 - lint"; else echo "not ok 1 - lint"; fi'; }
run_wire() { suite wire tests/wire/run.sh; }
run_specs() { # files…
  local spec
  for spec in "$@"; do
    suite "${spec%_spec.lua}" busted --lua=luajit -o TAP --lpath='./?.lua' "$spec"
  done
}

lane() { # command…; with services of its own
  trap services_stop EXIT
  trap 'exit 130' INT TERM
  services_start || { echo '0 1' >>"$results"; exit 1; }
  "$@"
}

specs() { # 0 | 1: every other file
  local n=0 spec mine=()
  for spec in ${SPEC:-spec/*_spec.lua}; do
    [ $((n++ % 2)) -ne "$1" ] || mine+=("$spec")
  done
  [ ${#mine[@]} -eq 0 ] || lane run_specs "${mine[@]}"
}

others() {
  local kind
  for kind in "$@"; do "run_$kind"; done
}

wanted=" $* " rest=() lanes=()
for kind in "$@"; do [ "$kind" = spec ] || rest+=("$kind"); done
trap 'kill "${lanes[@]}" 2>/dev/null; wait; exit 130' INT TERM
[ ${#rest[@]} -eq 0 ] || { (lane others "${rest[@]}") & lanes+=($!); }
[ "${wanted/ spec /}" = "$wanted" ] || {
  (specs 0) & lanes+=($!)
  (specs 1) & lanes+=($!)
}
wait "${lanes[@]}"

read -r passed failed < <(awk '{ ok += $1; bad += $2 } END { print ok + 0, bad + 0 }' "$results")
echo "logs: $logs"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
