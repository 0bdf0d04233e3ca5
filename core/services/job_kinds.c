#include "services/job_kinds.h"

#include <stdlib.h>

#include "base/buf.h"
#include "base/zone.h"

#define JOB_KINDS_MAGIC 0x70b5a901u

uint64_t job_backoff_ms(const struct job_backoff *backoff, unsigned attempt, uint32_t random)
{
    uint64_t n = attempt ? attempt : 1, most = UINT64_C(1000) * JOB_DELAY_MAX_S, ms = most;
    if (backoff->n_steps)
        ms = backoff->steps_ms[n <= backoff->n_steps ? n - 1 : backoff->n_steps - 1];
    else if (n < 18) /* 18⁴ s is more than a day */
        ms = n * n * n * n * 1000 < most ? n * n * n * n * 1000 : most;
    return ms * 9 / 10 + ms / 5 * (random % 1001) / 1000;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

struct job_kinds *job_kinds_new(void)
{
    struct job_kinds *kinds = xalloc(sizeof(*kinds));
    kinds->magic = JOB_KINDS_MAGIC;
    kinds->n_refs = 1;
    return kinds;
}

struct job_kinds *job_kinds_ref(struct job_kinds *kinds)
{
    CHECK_OBJ(kinds, JOB_KINDS_MAGIC);
    kinds->n_refs++;
    return kinds;
}

void job_kinds_unref(struct job_kinds *kinds)
{
    if (!kinds)
        return;
    CHECK_OBJ(kinds, JOB_KINDS_MAGIC);
    if (--kinds->n_refs > 0)
        return;
    for (size_t i = 0; i < kinds->n_timetables; i++) {
        zone_free(kinds->timetables[i].zone);
        free(kinds->timetables[i].key);
        free(kinds->timetables[i].args);
    }
    for (size_t i = 0; i < kinds->n_kinds; i++)
        free(kinds->kinds[i]);
    free(kinds->timetables);
    free(kinds->kinds);
    kinds->magic = 0;
    free(kinds);
}

/* ---- kinds ---------------------------------------------------------------------------------------------------------
 */

bool job_name_is_valid(struct slice name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool is_word = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!is_word && c != '.' && c != '_' && c != '-')
            return false;
    }
    return name.len > 0 && name.len <= JOB_NAME_MAX;
}

const struct job_kind *job_kinds_find(const struct job_kinds *kinds, struct slice name)
{
    CHECK_OBJ(kinds, JOB_KINDS_MAGIC);
    for (size_t i = 0; i < kinds->n_kinds; i++)
        if (slice_eq(name, slice_str(kinds->kinds[i]->name)))
            return kinds->kinds[i];
    return NULL;
}

enum status job_kinds_add(struct job_kinds *kinds, const struct job_kind *kind, struct err *err)
{
    CHECK_OBJ(kinds, JOB_KINDS_MAGIC);
    if (!job_name_is_valid(slice_str(kind->name)) || !job_name_is_valid(slice_str(kind->queue)))
        return err_set(err, ERR_INVALID, "names of jobs and queues are 1 to %d of A-Z a-z 0-9 . _ -", JOB_NAME_MAX);
    if (job_kinds_find(kinds, slice_str(kind->name)))
        return err_set(err, ERR_INVALID, "the job \"%s\" is defined twice", kind->name);
    kinds->kinds = xrealloc(kinds->kinds, (kinds->n_kinds + 1) * sizeof(*kinds->kinds));
    struct job_kind *copy = xalloc(sizeof(*copy));
    *copy = *kind;
    kinds->kinds[kinds->n_kinds++] = copy;
    return OK;
}

/* ---- timetables
 * ------------------------------------------------------------------------------------------------------ */

static char *make_key(const struct job_timetable_opts *opts)
{
    struct buf key = {0};
    buf_printf(&key, "%.*s %.*s %.*s", SLICE_FMT(opts->name), SLICE_FMT(opts->expr), SLICE_FMT(opts->zone));
    buf_byte(&key, '\0');
    return key.ptr;
}

static bool has_key(const struct job_kinds *kinds, const char *key)
{
    for (size_t i = 0; i < kinds->n_timetables; i++)
        if (strcmp(kinds->timetables[i].key, key) == 0)
            return true;
    return false;
}

enum status job_kinds_add_timetable(struct job_kinds *kinds, const struct job_timetable_opts *opts, struct err *err)
{
    CHECK_OBJ(kinds, JOB_KINDS_MAGIC);
    struct job_timetable table = {.kind = job_kinds_find(kinds, opts->name),
                                  .priority = opts->priority,
                                  .max_attempts = opts->max_attempts,
                                  .is_unique = opts->is_unique};
    if (!table.kind)
        return err_set(err, ERR_INVALID, "no job \"%.*s\" is defined", SLICE_FMT(opts->name));
    if (cron_parse(opts->expr, &table.cron, err) != OK)
        return err_prefix(err, "\"%.*s\"", SLICE_FMT(opts->expr));
    table.zone = zone_new(opts->zone, err);
    if (!table.zone)
        return ERR;
    table.key = make_key(opts);
    if (has_key(kinds, table.key)) {
        zone_free(table.zone);
        err_set(err, ERR_INVALID, "\"%s\" is there twice", table.key);
        free(table.key);
        return ERR;
    }
    table.args = xstrndup(opts->args.ptr, opts->args.len);
    kinds->timetables = xrealloc(kinds->timetables, (kinds->n_timetables + 1) * sizeof(table));
    kinds->timetables[kinds->n_timetables++] = table;
    return OK;
}
