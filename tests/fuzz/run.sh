#!/bin/bash
# Lets each fuzzer built in $BUILD (or those named as arguments) look for FUZZ_SECONDS, as many at a time as there are
# processors, and closes with one line: N passed, N failed. What a fuzzer learns stays in $BUILD/corpus/<noun>, so that
# the next run goes on from there; an input that breaks a target is kept in $BUILD/crashes/ and played again with
# build/fuzz/fuzzers/<noun>_fuzz FILE.
set -u
cd "$(dirname "$0")/../.." || exit 1
export BUILD=${BUILD:-build/fuzz} FUZZ_SECONDS=${FUZZ_SECONDS:-20}
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1} UBSAN_OPTIONS=print_stacktrace=1
mkdir -p "$BUILD/crashes" "$BUILD/fuzz-logs"

one() { # noun
  local noun=$1 log=$BUILD/fuzz-logs/$1.log dict=() rc
  [ -f "tests/fuzz/dict/$noun.dict" ] && dict=("-dict=tests/fuzz/dict/$noun.dict")
  mkdir -p "$BUILD/corpus/$noun"
  # A stuck input is a finding too (timeout); the whole is stopped if even that fails.
  timeout -k 10 $((FUZZ_SECONDS + 120)) "$BUILD/fuzzers/${noun}_fuzz" -max_total_time="$FUZZ_SECONDS" -timeout=10 \
    -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 -artifact_prefix="$BUILD/crashes/$noun-" "${dict[@]}" \
    "$BUILD/corpus/$noun" "tests/fuzz/corpus/$noun" >"$log" 2>&1
  rc=$?
  local runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ $rc -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
    printf 'ok     %-16s %9d runs %8d/s\n' "$noun" "$runs" "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")"
  else
    printf 'not ok %-16s\n' "$noun"
    grep -vE '^#[0-9]+|^INFO' "$log" | head -n 60 | sed 's/^/    /'
  fi
}
export -f one

targets=("$@")
[ $# -gt 0 ] || for file in tests/fuzz/*_fuzz.c; do file=${file##*/} targets+=("${file%_fuzz.c}"); done
results=$(mktemp)
trap 'rm -f "$results"' EXIT
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'one {}' | tee "$results"
passed=$(grep -c '^ok ' "$results") failed=$((${#targets[@]} - passed))
echo "logs: $BUILD/fuzz-logs"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
