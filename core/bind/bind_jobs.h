/* Jobs as the rest of bind/ and the job worker see them. */
#pragma once

#include <lua.h>

#include "script/vm.h"
#include "services/jobs.h"

/* What a VM declares, and how its jobs are run in it: for jobs_set_generation. The VM must outlive the jobs it was
 * given, and end (vm_free) before the jobs do. */
struct job_generation bind_jobs_generation(struct vm *vm);

struct co;
struct job *bind_jobs_of(const struct co *co); /* the job that this activity is, or belongs to; NULL: none */
struct job *bind_jobs_running(lua_State *L);   /* the running activity's */
