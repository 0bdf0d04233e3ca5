/* The one ordered table of C modules behind lua/chowk. A new binding is one line in modules.c. */
#pragma once

#include "script/vm.h"

extern const struct vm_module bind_modules[];
