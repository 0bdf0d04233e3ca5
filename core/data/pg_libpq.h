/* libpq, which makes our connections, runs COPY on them, cancels behind a pooler, and serves the blocking pg_admin. Its
 * PGresult is a `struct pg_result` as ours is: here it gets another name, so that the compiler tells the two apart. */
#pragma once

#define pg_result pg_result_of_libpq
#include <libpq-fe.h>
#undef pg_result

#include "base/err.h"

void pg_libpq_error(const PGresult *result, struct err *err); /* of a result that is an error: ERR_PG */
