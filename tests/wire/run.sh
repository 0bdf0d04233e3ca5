#!/bin/bash
# Wire dialogues: builds the echo server from $BUILD/libchowk.a, starts it on a port of its own with short
# timeouts, plays every *.wire file against it (run.lua prints TAP), stops it by pid. Arguments: files to play.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc}
server=$BUILD/wire/echo_server
lib=${WIRE_LIB:-$BUILD/libchowk.a}

if [ ! -x "$server" ] || [ tests/wire/echo_server.c -nt "$server" ] || [ "$lib" -nt "$server" ]; then
  mkdir -p "$BUILD/wire"
  san=$(nm -u "$lib" 2>/dev/null | grep -q __asan_init && echo '-fsanitize=address,undefined -fno-sanitize-recover=all')
  # shellcheck disable=SC2046,SC2086
  $CC -std=c11 -D_GNU_SOURCE -Icore -O1 -g -Wall -Wextra -Werror $san -o "$server" tests/wire/echo_server.c "$lib" \
    $(pkg-config --libs libuv openssl) -lm || { echo "Bail out! the echo server does not build"; exit 1; }
fi

out=$(mktemp)
WIRE_HEADER_TIMEOUT_MS=800 WIRE_BODY_TIMEOUT_MS=800 WIRE_IDLE_TIMEOUT_MS=2000 WIRE_WRITE_TIMEOUT_MS=1200 \
  "$server" 127.0.0.1:0 > "$out" & pid=$!
stop() { kill -TERM "$pid" 2>/dev/null; wait "$pid"; }
for _ in $(seq 100); do grep -q listening "$out" && break; kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
addr=$(sed -n 's/^listening //p' "$out"); rm -f "$out"
[ -n "$addr" ] || { echo "Bail out! the echo server does not start"; stop; exit 1; }

WIRE_ADDR=$addr luajit tests/wire/run.lua "$@"; failed=$?
stop; code=$?
[ "$code" -eq 0 ] || { echo "# the echo server ended with $code"; failed=1; }
exit "$failed"
