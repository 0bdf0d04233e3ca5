/* Unwinding is libgcc's: on glibc from 2.35 it finds unwind tables without a lock (_dl_find_object), so that it may run
 * in a handler once its library is loaded. dladdr takes the loader's lock and is for frames_text only. */
#include "base/frames.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { MAX_MODULES = 96 };

struct module {
    char name[FRAMES_MODULE];
    uintptr_t base, from, to;
};

static struct module modules[MAX_MODULES];
static size_t n_modules;

static int note_module(struct dl_phdr_info *info, size_t size UNUSED, void *data UNUSED)
{
    if (n_modules == MAX_MODULES)
        return 1;
    struct module *module = &modules[n_modules];
    const char *path = info->dlpi_name[0] ? info->dlpi_name : "chowk";
    const char *slash = strrchr(path, '/');
    snprintf(module->name, sizeof(module->name), "%s", slash ? slash + 1 : path);
    module->base = info->dlpi_addr;
    module->from = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + header->p_vaddr, to = from + header->p_memsz;
        if (header->p_type != PT_LOAD)
            continue;
        module->from = from < module->from ? from : module->from;
        module->to = to > module->to ? to : module->to;
    }
    n_modules++;
    return 0;
}

void frames_prepare(void)
{
    void *address;
    n_modules = 0;
    dl_iterate_phdr(note_module, NULL);
    (void)backtrace(&address, 1); /* loads libgcc_s */
}

uintptr_t frames_pc(const void *context)
{
    const ucontext_t *uc = context;
#if defined(__x86_64__)
    return (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)uc->uc_mcontext.pc;
#else
    return (void)uc, 0;
#endif
}

uintptr_t frames_sp(const void *context)
{
    const ucontext_t *uc = context;
#if defined(__x86_64__)
    return (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    return (uintptr_t)uc->uc_mcontext.sp;
#else
    return (void)uc, 0;
#endif
}

static void locate(struct frame *frame, uintptr_t address)
{
    *frame = (struct frame){.offset = address};
    for (size_t i = 0; i < n_modules; i++)
        if (address >= modules[i].from && address < modules[i].to) {
            memcpy(frame->module, modules[i].name, sizeof(frame->module));
            frame->offset = address - modules[i].base;
            return;
        }
}

void frames_capture_pc(struct frames *out, const void *context)
{
    out->n = 1;
    locate(&out->at[0], frames_pc(context));
}

void frames_capture(struct frames *out, const void *context)
{
    void *addresses[FRAMES_MAX + 8]; /* the handler's own frames come first */
    int n = backtrace(addresses, ARRAY_LEN(addresses)), first = 1;
    uintptr_t pc = context ? frames_pc(context) : 0;
    for (int i = 0; context && i < n; i++)
        if ((uintptr_t)addresses[i] == pc)
            first = i;
    out->n = 0;
    if (context && (first >= n || (uintptr_t)addresses[first] != pc))
        locate(&out->at[out->n++], pc); /* the unwinder did not pass the signal's frame */
    for (int i = first; i < n && out->n < FRAMES_MAX; i++)
        locate(&out->at[out->n++], (uintptr_t)addresses[i]);
}

/* ---- as text ------------------------------------------------------------------------------------------------- */

static const struct module *find_module(const char *name)
{
    for (size_t i = 0; i < n_modules; i++)
        if (strncmp(modules[i].name, name, FRAMES_MODULE) == 0)
            return &modules[i];
    return NULL;
}

static void write_symbol(const struct module *module, uint64_t offset, struct buf *out)
{
    Dl_info info;
    uintptr_t address = module->base + offset;
    union {
        uintptr_t number;
        void *pointer;
    } where = {.number = address};
    if (dladdr(where.pointer, &info) && info.dli_sname)
        buf_printf(out, " (%s+0x%zx)", info.dli_sname, (size_t)(address - (uintptr_t)info.dli_saddr));
}

void frames_text(const struct frames *frames, struct buf *out)
{
    for (uint32_t i = 0; i < frames->n && i < FRAMES_MAX; i++) {
        const struct frame *frame = &frames->at[i];
        const struct module *module = find_module(frame->module);
        if (i > 0)
            buf_lit(out, " < ");
        buf_printf(out, "%.*s+0x%llx", FRAMES_MODULE - 1, frame->module[0] ? frame->module : "?",
                   (unsigned long long)frame->offset);
        if (module)
            write_symbol(module, frame->offset, out);
    }
}
