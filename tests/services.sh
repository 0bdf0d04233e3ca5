# Sourced by test and bench runners: a private PostgreSQL and Redis on Unix sockets for the duration of one run.
# services_start exports TEST_PG_URL (superuser, database postgres), TEST_PG_DIR and TEST_REDIS_URL; services_stop (call it
# from an EXIT trap) ends exactly what was started and removes the data.

services_start() {
  local as=() pgbin
  pgbin=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")
  TEST_DIR=$(mktemp -d /tmp/chowk-test.XXXXXX)
  chmod 755 "$TEST_DIR"
  mkdir "$TEST_DIR/pg" "$TEST_DIR/sock" "$TEST_DIR/redis"
  if [ "$(id -u)" = 0 ]; then
    chown postgres "$TEST_DIR/pg" "$TEST_DIR/sock"
    as=(setpriv --reuid=postgres --regid=postgres --init-groups)
  fi
  (cd / && "${as[@]}" "$pgbin/initdb" -D "$TEST_DIR/pg" -U chowk -A trust -E UTF8 --locale=C --no-sync >"$TEST_DIR/initdb.log" 2>&1) ||
    { cat "$TEST_DIR/initdb.log"; return 1; }
  # Only `make test` turns fsync off: nothing here outlives the run. Bench keeps it on (TEST_FSYNC=on).
  (cd / && exec "${as[@]}" "$pgbin/postgres" -D "$TEST_DIR/pg" -k "$TEST_DIR/sock" -c listen_addresses= -c fsync="${TEST_FSYNC:-off}" \
    -c synchronous_commit="${TEST_FSYNC:-off}" -c max_connections=400 -c shared_buffers=256MB -c log_min_messages=fatal \
    >"$TEST_DIR/postgres.log" 2>&1) &
  TEST_PG_PID=$!
  redis-server --port 0 --unixsocket "$TEST_DIR/redis/s" --save '' --appendonly no --unixsocketperm 777 --databases 256 --dir "$TEST_DIR/redis" \
    >"$TEST_DIR/redis.log" 2>&1 &
  TEST_REDIS_PID=$!
  export TEST_PG_DIR=$TEST_DIR/sock TEST_PG_URL="postgresql:///postgres?host=$TEST_DIR/sock&user=chowk"
  export TEST_REDIS_URL="unix://$TEST_DIR/redis/s" TEST_REDIS_SOCKET=$TEST_DIR/redis/s
  local tries=0
  until psql "$TEST_PG_URL" -qAtc 'SELECT 1' >/dev/null 2>&1 && [ -S "$TEST_REDIS_SOCKET" ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat "$TEST_DIR"/*.log; return 1; }
    sleep 0.1
  done
}

services_stop() {
  [ -n "${TEST_DIR:-}" ] || return 0
  [ -z "${TEST_PG_PID:-}" ] || { kill -INT "$TEST_PG_PID" 2>/dev/null; wait "$TEST_PG_PID" 2>/dev/null; }
  [ -z "${TEST_REDIS_PID:-}" ] || { kill "$TEST_REDIS_PID" 2>/dev/null; wait "$TEST_REDIS_PID" 2>/dev/null; }
  rm -rf "$TEST_DIR"
  TEST_DIR=
}
