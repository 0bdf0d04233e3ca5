#include "data/pg_libpq.h"

#include "data/pg_proto.h"

void pg_libpq_error(const PGresult *result, struct err *err)
{
    struct pg_fault fault = {.sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE),
                             .message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY),
                             .detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL),
                             .hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT),
                             .constraint = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME),
                             .position = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION)};
    if (!fault.message)
        fault.message = PQresultErrorMessage(result);
    pg_fault_to_err(&fault, err);
}
