/* Who listens on a TCP port: for "the address is in use" messages that name the culprit. Reads /proc; best effort. */
#pragma once

#include "base/buf.h"
#include "net/addr.h"

/* Appends "pid 4711 (nginx)" and returns true, or appends nothing and returns false. */
bool port_owner_find(const struct addr *addr, struct buf *out);
