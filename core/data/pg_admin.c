/* The command line's own connection: plain, blocking, several statements in one text. It must never be used in a
 * worker, whose loop it would stop. */
#include "data/pg_admin.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "data/pg_priv.h"

#define PG_ADMIN_MAGIC 0x9061a905u

struct pg_admin {
    unsigned magic;
    PGconn *pq;
};

static void on_admin_notice(void *data, const char *message)
{
    (void)data;
    log_debug("PostgreSQL notice", LOG_S("text", message));
}

/* libpq's texts end with a newline. */
static enum status fail_as_libpq(struct err *err, const char *text)
{
    int len = (int)strlen(text);
    while (len > 0 && text[len - 1] == '\n')
        len--;
    return err_set(err, ERR_UNAVAILABLE, "PostgreSQL: %.*s", len, text);
}

struct pg_admin *pg_admin_open(const char *url, struct err *err)
{
    const char *keywords[] = {"dbname", "client_encoding", "fallback_application_name", NULL};
    const char *values[] = {url, "UTF8", "chowk", NULL};
    PGconn *pq = PQconnectdbParams(keywords, values, 1); /* dbname: a whole URL is expanded */
    if (PQstatus(pq) != CONNECTION_OK) {
        (void)fail_as_libpq(err, PQerrorMessage(pq));
        PQfinish(pq);
        return NULL;
    }
    PQsetNoticeProcessor(pq, on_admin_notice, NULL);
    struct pg_admin *admin = xalloc(sizeof(*admin));
    admin->magic = PG_ADMIN_MAGIC;
    admin->pq = pq;
    return admin;
}

void pg_admin_close(struct pg_admin *admin)
{
    if (!admin)
        return;
    CHECK_OBJ(admin, PG_ADMIN_MAGIC);
    PQfinish(admin->pq);
    admin->magic = 0;
    free(admin);
}

static enum status take_error(struct pg_admin *admin, const PGresult *result, int *position, struct err *err)
{
    const char *at = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION);
    if (position && at)
        *position = (int)strtol(at, NULL, 10);
    if (PQstatus(admin->pq) == CONNECTION_BAD)
        return fail_as_libpq(err, PQerrorMessage(admin->pq));
    struct err local;
    pg_libpq_error(result, err ? err : &local);
    return ERR;
}

/* A COPY in a migration would wait for data that never comes. */
static enum status refuse_copy(struct pg_admin *admin, ExecStatusType status, struct err *err)
{
    if (status == PGRES_COPY_IN)
        PQputCopyEnd(admin->pq, "chowk has no data to copy");
    PGresult *result;
    while ((result = PQgetResult(admin->pq)) && PQresultStatus(result) != PGRES_COPY_OUT)
        PQclear(result);
    PQclear(result);
    return err_set(err, ERR_REFUSED, "COPY is not possible here: write INSERT");
}

static enum status check_result(struct pg_admin *admin, const PGresult *result, int *position, struct err *err)
{
    ExecStatusType status = PQresultStatus(result);
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY)
        return OK;
    if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
        return refuse_copy(admin, status, err);
    return take_error(admin, result, position, err);
}

enum status pg_admin_exec(struct pg_admin *admin, const char *sql, int *position, struct err *err)
{
    CHECK_OBJ(admin, PG_ADMIN_MAGIC);
    if (position)
        *position = 0;
    PGresult *result = PQexec(admin->pq, sql);
    enum status rc = check_result(admin, result, position, err);
    PQclear(result);
    return rc;
}

enum status pg_admin_column(struct pg_admin *admin, const char *sql, const char *const *params, int n_params,
                            struct arena *arena, struct slice **values, size_t *n_values, struct err *err)
{
    CHECK_OBJ(admin, PG_ADMIN_MAGIC);
    *values = NULL;
    *n_values = 0;
    PGresult *result = PQexecParams(admin->pq, sql, n_params, NULL, params, NULL, NULL, 0);
    enum status rc = check_result(admin, result, NULL, err);
    if (rc == OK && PQntuples(result) > 0 && PQnfields(result) > 0) {
        *n_values = (size_t)PQntuples(result);
        *values = arena_zalloc(arena, *n_values * sizeof(**values));
        for (int row = 0; row < PQntuples(result); row++)
            if (!PQgetisnull(result, row, 0))
                (*values)[row] =
                    arena_copy(arena, slice_of(PQgetvalue(result, row, 0), (size_t)PQgetlength(result, row, 0)));
    }
    PQclear(result);
    return rc;
}
