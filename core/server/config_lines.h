/* Where in the text of conf/chowk.lua a key is written: Lua values carry no positions, so the source is scanned. */
#pragma once

#include "base/slice.h"

/* Line (1-based) at which the dotted `name` is given a value, or 0 if it cannot be told. Understands nested table
 * constructors, ["quoted"] keys and assignments such as `conf.pg.pool_size = 10`; comments and strings are skipped. */
int config_lines_find(struct slice source, const char *name);
