/* What the compiler made of the kernels, from the log of a build: tools/kernel_report.py's lines, or ptxas -v's own
 * (the preset cuda-report prints them). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/report/report.h"

enum { MOST_ARCHS = 16, LINE = 8192, MOST_SPILLS = 20 };

struct arch {
    unsigned sm, kernels, most_registers, most_stack, most_shared, spilling;
};

struct tally {
    struct section *s;
    struct arch archs[MOST_ARCHS];
    unsigned n, current; /* current: of the kernel that raw lines speak of; 0: none */
    unsigned stack, stores, loads, spills_named;
    char name[200];
};

static struct arch *arch_of(struct tally *t, unsigned sm) {
    for (unsigned i = 0; i < t->n; i++)
        if (t->archs[i].sm == sm) return &t->archs[i];
    if (t->n == MOST_ARCHS) return NULL;
    t->archs[t->n] = (struct arch){.sm = sm};
    return &t->archs[t->n++];
}

static void count(struct tally *t, unsigned sm, unsigned registers, unsigned stack, unsigned spilled, unsigned shared, const char *name) {
    struct arch *a = arch_of(t, sm);
    if (!a) return;
    a->kernels++;
    if (registers > a->most_registers) a->most_registers = registers;
    if (stack > a->most_stack) a->most_stack = stack;
    if (shared > a->most_shared) a->most_shared = shared;
    if (!spilled && !stack) return;
    a->spilling++;
    if (t->spills_named++ < MOST_SPILLS) section_note(t->s, "sm_%u: %u bytes spilled, stack frame of %u: %.150s", sm, spilled, stack, name);
}

static void take_line(struct tally *t, const char *line) {
    unsigned sm, registers, stack, spilled, shared = 0;
    int at = 0;
    const char *found;
    if (sscanf(line, "sm_%u %u regs %u stack %u spilled %u shared %n", &sm, &registers, &stack, &spilled, &shared, &at) >= 5 && at) {
        count(t, sm, registers, stack, spilled, shared, line + at);
    } else if ((found = strstr(line, "Compiling entry function '")) != NULL) {
        t->stack = t->stores = t->loads = t->current = 0;
        (void)sscanf(found, "Compiling entry function '%199[^']' for 'sm_%u", t->name, &t->current);
    } else if ((found = strstr(line, "bytes stack frame")) != NULL) {
        (void)sscanf(line, " %u bytes stack frame, %u bytes spill stores, %u bytes spill loads", &t->stack, &t->stores, &t->loads);
    } else if ((found = strstr(line, "Used ")) != NULL && t->current && sscanf(found, "Used %u registers", &registers) == 1) {
        for (const char *c = strchr(found, ','); c; c = strchr(c + 1, ','))
            if (sscanf(c, ", %u bytes smem", &shared) == 1 && strstr(c, "smem")) break;
        count(t, t->current, registers, t->stack, t->stores + t->loads, shared, t->name);
        t->current = 0;
    }
}

static const struct column compile_columns[] = {{"arch", "architecture"}, {"kernels", "kernels"}, {"registers", "registers at most"}, {"shared", "static shared at most, bytes"},
                                                {"stack", "stack frame at most, bytes"}, {"spilling", "kernels with local memory"}};

void report_compile(struct bench *b) {
    struct section *s = section_open(&b->report, "compile", "What the compiler made of the kernels", compile_columns, sizeof compile_columns / sizeof *compile_columns);
    struct tally t = {.s = s};
    char line[LINE];
    if (!b->o.ptxas) {
        section_note(s, "Not given: --ptxas FILE takes the output of tools/kernel_report.py or of a build with the preset cuda-report.");
        return;
    }
    FILE *f = fopen(b->o.ptxas, "r");
    if (!f) {
        section_note(s, "%s: %s", b->o.ptxas, strerror(errno));
        return;
    }
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        take_line(&t, line);
    }
    fclose(f);
    for (unsigned i = 0; i < t.n; i++) {
        const struct arch *a = &t.archs[i];
        section_row(s);
        section_text(s, 0, "sm_%u", a->sm);
        section_number(s, 1, a->kernels, 0);
        section_number(s, 2, a->most_registers, 0);
        section_number(s, 3, a->most_shared, 0);
        section_number(s, 4, a->most_stack, 0);
        section_number(s, 5, a->spilling, 0);
    }
    if (!t.n) section_note(s, "%s: no kernels in it.", b->o.ptxas);
}
