#!/bin/bash
# Benchmark beside the peers: starts a private PostgreSQL (durable settings) and Redis, installs the Node peers, runs bench.js.
# Arguments go to bench.js, which also reads JOBS, PEERS, ROUNDS and DURATION (s): make bench JOBS="list order" PEERS="chowk fastify"
set -eu
cd "$(dirname "$0")/../.."
export CHOWK=$PWD/${BUILD:-build}/chowk TEST_FSYNC=on
ulimit -n "$(ulimit -Hn)" # idle connections by the thousand
[ tests/bench/peers/node_modules/.package-lock.json -nt tests/bench/peers/package-lock.json ] || npm --prefix tests/bench/peers ci --no-audit --no-fund --silent
. tests/services.sh
trap services_stop EXIT
trap 'exit 130' INT TERM
services_start
node tests/bench/bench.js "$@"
