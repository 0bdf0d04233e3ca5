#include "server/adoption.h"

#include <stdlib.h>

enum { NOBODY = -1 };

struct adoption {
    struct adoption_opts opts;
    int *holders; /* of each listener */
};

struct adoption *adoption_new(const struct adoption_opts *opts)
{
    struct adoption *adoption = xalloc(sizeof(*adoption));
    adoption->opts = *opts;
    adoption->holders = xalloc((opts->n_listeners + 1) * sizeof(int));
    for (unsigned i = 0; i < opts->n_listeners; i++)
        adoption->holders[i] = NOBODY;
    return adoption;
}

void adoption_free(struct adoption *adoption)
{
    if (!adoption)
        return;
    free(adoption->holders);
    free(adoption);
}

static int owner_of(const struct adoption *adoption, unsigned listener)
{
    return (int)(listener % adoption->opts.n_workers);
}

/* Its process was born with it, and accepts whenever it serves. */
static bool is_born_with(unsigned listener, int worker)
{
    return (int)listener == worker;
}

static bool serves(const struct adoption *adoption, int worker)
{
    return worker != NOBODY && adoption->opts.serves(adoption->opts.data, (unsigned)worker);
}

/* The owner; else who does it already; else the next sibling. */
static int choose(const struct adoption *adoption, unsigned listener)
{
    int owner = owner_of(adoption, listener), n = (int)adoption->opts.n_workers;
    if (serves(adoption, owner))
        return owner;
    if (serves(adoption, adoption->holders[listener]))
        return adoption->holders[listener];
    for (int i = 1; i < n; i++)
        if (serves(adoption, (owner + i) % n))
            return (owner + i) % n;
    return NOBODY;
}

static void look_at(struct adoption *adoption, unsigned listener)
{
    const struct adoption_opts *opts = &adoption->opts;
    int before = adoption->holders[listener], now = choose(adoption, listener);
    if (now == NOBODY || now == before)
        return;
    if (!is_born_with(listener, now) && opts->adopt(opts->data, (unsigned)now, listener) != OK)
        return;
    adoption->holders[listener] = now;
    if (before != NOBODY && !is_born_with(listener, before))
        opts->release(opts->data, (unsigned)before, listener);
}

void adoption_look(struct adoption *adoption)
{
    for (unsigned i = 0; i < adoption->opts.n_listeners; i++)
        look_at(adoption, i);
}

void adoption_forget(struct adoption *adoption, unsigned worker)
{
    for (unsigned i = 0; i < adoption->opts.n_listeners; i++)
        if (adoption->holders[i] == (int)worker)
            adoption->holders[i] = NOBODY;
}

int adoption_holder(const struct adoption *adoption, unsigned listener)
{
    return adoption->holders[listener];
}
