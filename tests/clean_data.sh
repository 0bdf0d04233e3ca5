#!/bin/bash
# Drops the private PostgreSQL and Redis below var/ (and where var/pg points when root keeps it elsewhere).
set -eu
cd "$(dirname "$0")/.."
[ -e var ] || exit 0
if [ -f var/pg/postmaster.pid ] && kill -0 "$(head -n 1 var/pg/postmaster.pid)" 2>/dev/null; then
  echo "a server is using var/: stop it first" >&2
  exit 1
fi
for link in var/pg var/redis; do
  [ -L "$link" ] && case $(readlink -f "$link") in /var/tmp/chowk-*) rm -rf "$(readlink -f "$link")" ;; esac
done
rm -rf var
