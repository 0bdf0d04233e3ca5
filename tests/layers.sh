#!/bin/bash
# Includes point down only: base → net → http → data → services → script → bind → server, and each third-party
# header has its own files (STYLE 2.4, 2.5). Prints every offending line and fails.
set -u
cd "$(dirname "$0")/.." || exit 1
order=(base net http data services script bind server)
bad=0
complain() { [ -z "$1" ] || { printf '%s\n%s\n' "$2" "$1"; bad=1; }; }

for i in "${!order[@]}"; do
  for j in "${!order[@]}"; do
    [ "$j" -gt "$i" ] || continue
    complain "$(grep -nE "^#include \"${order[$j]}/" core/"${order[$i]}"/*.[ch] 2>/dev/null)" "${order[$i]} may not include ${order[$j]}:"
  done
done
only() { # header pattern, files that may include it
  complain "$(grep -rnE "^#include [<\"]$1" core | grep -vE "^core/($2)[:.]")" "<$1> belongs to $2 only:"
}
only 'uv\.h'              'net/[a-z_]+\.c'
only 'openssl/ssl'        'net/tls\.c'
only 'openssl/'           'base/crypto\.c|net/tls\.c'
only 'llhttp'             'http/parse\.[ch]'
only 'libpq-fe\.h'        'data/pg_[a-z_]+\.[ch]|data/pg\.c'
only '(hiredis|read|sds)' 'data/redis[a-z_]*\.[ch]'
only 'curl/'             'data/(curl|http_client)_[a-z]+\.[ch]|data/mail\.c'
only '(lua|lauxlib|lualib|luajit)\.h' '(script|bind)/[a-z_]+\.[ch]|server/config_load\.c'
complain "$(grep -rnE '\blua_resume *\(' core | grep -v '^core/script/co\.c')" "lua_resume belongs to script/co.c:"
complain "$(grep -rn '\bluaL_newmetatable *(' core | grep -v '^core/script/lx\.c')" "luaL_newmetatable belongs to script/lx.c (lx_new_class hides it):"
exit $bad
