/* What this version does on the GPU of this machine, in one command and less than eight minutes: a report as Markdown and JSON.
 *
 *     cmake --preset cuda && cmake --build build/cuda --target gpu_report && build/cuda/bench/gpu_report
 *
 *     gpu_report [-m MODEL.gguf] [-o PREFIX] [--peer LLAMA_BENCH] [--seconds N] [--budgets GIB,GIB,...] [-t THREADS] [--tmp FOLDER]
 *                [--device cuda:N] [--ptxas LOG] [--quick]
 *
 * Sections: device, host, measured limits, hand-over to the CPU, launches of a step, attention, products of prompts, models end to
 * end under VRAM budgets with plan beside measurement, the peer, what the compiler said. What could not be measured says why; without
 * a GPU the report says that there is none, and the exit status is 0.
 *
 * Without -m a synthetic Q4_K_M model in the shape of Qwen3-30B-A3B (18.6 GB) is written to /dev/shm, or /tmp, or --tmp, and deleted
 * afterwards. --seconds (default 450) bounds the whole run: what is left by then is left out. --budgets 0 is "what is free". Output:
 * bench/results/<gpu>-<date>.{md,json}, or PREFIX.{md,json}. --quick is a smoke test with tiny sizes.
 *
 * On another machine than the one that built it, the program alone is needed, and the libraries it is linked with where that
 * machine lacks them. Here:
 *     mkdir -p build/cuda/lib && cp -L $(ldd build/cuda/bench/gpu_report | grep -oE '/[^ ]*(jansson|hwloc|uring|udev|xml2|icu|lzma|cap|pciaccess|ltdl|nuclear)[^ ]*') build/cuda/lib/
 *     tools/kernel_report.py --arch 90 > build/cuda/kernels.txt
 * There, with build/cuda/bench/gpu_report, build/cuda/lib and build/cuda/kernels.txt:
 *     LD_LIBRARY_PATH=build/cuda/lib build/cuda/bench/gpu_report --ptxas build/cuda/kernels.txt -o "$OUT/report" */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/support/median.h"
#include "bench/report/report.h"

enum { USAGE = 2 };

/* ---- what the parts share ------------------------------------------------------------------------------------------------------ */

bool bench_late(const struct bench *b, double seconds) { return clock_ns() + (uint64_t)(1e9 * fmin(fmax(seconds, 0), 1e6)) >= b->deadline_ns; }

uint32_t bench_repeats(const struct bench *b, uint32_t wanted) { return b->o.quick ? 1 : wanted; }

void bench_progress(const struct bench *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%5.0f s  ", 1e-9 * (double)(clock_ns() - b->start_ns));
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

double percentile(double *values, uint32_t n, double share) {
    if (n == 0) return NAN;
    sort_values(values, n);
    return values[(uint32_t)(share * (n - 1) + 0.5)];
}

double median(double *values, uint32_t n) { return percentile(values, n, 0.5); }

/* ---- flags ----------------------------------------------------------------------------------------------------------------------- */

static int usage(void) {
    fputs("gpu_report [-m MODEL.gguf] [-o PREFIX] [--peer LLAMA_BENCH] [--seconds N] [--budgets GIB,GIB,...] [-t THREADS] [--tmp FOLDER]\n"
          "           [--device cuda:N] [--ptxas LOG] [--quick]\n",
          stderr);
    return USAGE;
}

static bool parse_budgets(struct bench_options *o, const char *text) {
    for (o->n_budgets = 0; *text; text += *text == ',') {
        char *end;
        const double gib = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(gib >= 0 && gib < 1e6) || o->n_budgets == MAX_BUDGETS) return false;
        o->budgets[o->n_budgets++] = (uint64_t)(gib * (1 << 30));
        text = end;
    }
    return o->n_budgets > 0;
}

static bool parse(struct bench_options *o, int argc, char **argv) {
    const struct {
        const char *name, **to;
    } texts[] = {{"-m", &o->model}, {"-o", &o->prefix}, {"--peer", &o->peer}, {"--tmp", &o->folder}, {"--device", &o->device}, {"--ptxas", &o->ptxas}};
    for (int i = 1; i < argc; i++) {
        bool known = strcmp(argv[i], "--quick") == 0;
        if (known) {
            o->quick = true;
            continue;
        }
        if (i + 1 == argc) return false;
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
            if (strcmp(argv[i], texts[k].name) == 0) known = true, *texts[k].to = argv[i + 1];
        if (strcmp(argv[i], "--seconds") == 0) known = (o->seconds = atof(argv[i + 1])) > 0;
        if (strcmp(argv[i], "-t") == 0) known = (o->threads = (unsigned)atoi(argv[i + 1])) > 0;
        if (strcmp(argv[i], "--budgets") == 0) known = parse_budgets(o, argv[i + 1]);
        if (!known) return false;
        i++;
    }
    if (!o->n_budgets) (void)parse_budgets(o, o->quick ? "0.2,0.05" : "16,0,8,12,4");
    return true;
}

/* ---- the report ------------------------------------------------------------------------------------------------------------------- */

static void open_device(struct bench *b) {
    struct reason why;
    const struct gpu_options o = {.device = b->o.device};
    if (gpu_open(&o, &b->gpu, &why)) {
        snprintf(b->why_no_gpu, sizeof b->why_no_gpu, "%s", why.text);
        return;
    }
    b->gpu->ops->info(b->gpu, &b->info);
    gpu_bench_facts(b->gpu, &b->details);
    if (b->facts->n_gpus == 0) b->facts->n_gpus = 1;
}

/* bench/results/<gpu>-<date>, the name in lower case with single dashes. */
static void default_prefix(const struct bench *b, char *out, size_t size) {
    char name[64];
    size_t n = 0;
    for (const char *c = b->info.name[0] ? b->info.name : "no gpu"; *c && n + 1 < sizeof name; c++) {
        if (isalnum((unsigned char)*c)) name[n++] = (char)tolower((unsigned char)*c);
        else if (n && name[n - 1] != '-') name[n++] = '-';
    }
    while (n && name[n - 1] == '-') n--;
    name[n] = 0;
    snprintf(out, size, "bench/results/%s-%.10s", name, b->report.date);
}

static void measure(struct bench *b) {
    report_device(b);
    report_host(b);
    report_limits(b);
    report_hand_over(b);
    report_step_launches(b);
    report_attention(b);
    report_products(b);
    report_models(b);
    report_compile(b);
}

int main(int argc, char **argv) {
    static struct bench b = {.o = {.seconds = 450}};
    struct reason why = {""};
    char prefix[256];
    const time_t now = time(NULL);
    struct tm utc;
    if (!parse(&b.o, argc, argv)) return usage();
    b.start_ns = clock_ns();
    b.deadline_ns = b.start_ns + (uint64_t)(1e9 * b.o.seconds);
    b.report.quick = b.o.quick;
    strftime(b.report.date, sizeof b.report.date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    b.facts = calloc_checked(1, sizeof *b.facts);
    enum err e = b.facts ? facts_read(b.facts, &why) : fail(&why, ERR_NO_MEMORY, "no memory");
    if (!e) {
        open_device(&b);
        measure(&b);
        default_prefix(&b, prefix, sizeof prefix);
        e = report_write(&b.report, b.o.prefix ? b.o.prefix : prefix, &why);
    }
    if (e) fprintf(stderr, "gpu_report: %s\n", why.text);
    else printf("%s.md\n%s.json\n", b.o.prefix ? b.o.prefix : prefix, b.o.prefix ? b.o.prefix : prefix);
    if (b.gpu) b.gpu->ops->close(&b.gpu);
    report_close(&b.report);
    free(b.facts);
    return e != ERR_NONE;
}
