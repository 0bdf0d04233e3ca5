#!/bin/bash
# Benchmark beside the peers: starts a private PostgreSQL (durable settings) and Redis, installs the Node peers, runs bench.js.
# Arguments go to bench.js: --jobs json,product --rounds 3 --seconds 2 --only chowk,fastify
set -eu
cd "$(dirname "$0")/../.."
export CHOWK=$PWD/${BUILD:-build}/chowk TEST_FSYNC=on
[ -d tests/bench/peers/node_modules ] || npm --prefix tests/bench/peers ci --no-audit --no-fund --silent
. tests/services.sh
trap services_stop EXIT
trap 'exit 130' INT TERM
services_start
write=--write; [ $# -eq 0 ] || write=
node tests/bench/bench.js $write "$@"
