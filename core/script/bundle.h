/* The code bundle: every Lua file of the application, read once by the master, compiled to bytecode with debug info,
 * sealed in a memfd with a content hash. Workers load only from it. */
#pragma once

#include "base/buf.h"
#include "base/err.h"
#include "base/shm.h"

struct bundle;
/* Reads every *.lua under app_dir/root (not var, spec, tests, node_modules, hidden; at the top not chowk, conf); module
 * names are relative to root, chunk names relative to app_dir. Symlinks are not followed out of app_dir. ERR names
 * file:line of a syntax error. */
enum status bundle_build(const char *app_dir, const char *root, struct buf *out, struct err *err) MUST_CHECK;
/* Whether a directory of that name is left out, `depth` below app_dir/root. */
bool bundle_skips_dir(const char *name, int depth);
struct bundle *bundle_open(int memfd, struct err *err); /* returns owned; checks layout and hash */
void bundle_free(struct bundle *bundle);
/* Bytecode of a module ("store.routes.orders"), or {NULL,0}. *chunk gets its chunk name. */
struct slice bundle_find(const struct bundle *bundle, struct slice module, struct slice *chunk);
const char *bundle_hash(const struct bundle *bundle); /* 12 hex digits */
