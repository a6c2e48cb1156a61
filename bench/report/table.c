/* Tables in memory, as Markdown and as JSON. Measures nothing. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/report/report.h"
#include "core/json.h"

/* ---- filling ------------------------------------------------------------------------------------------------------------- */

static char *format_text(const char *format, va_list args) {
    char *text = NULL;
    return vasprintf(&text, format, args) < 0 ? NULL : text;
}

struct section *section_open(struct report *r, const char *key, const char *title, const struct column *columns, uint32_t n_columns) {
    struct section *s = &r->sections[r->n_sections < MAX_SECTIONS - 1 ? r->n_sections++ : MAX_SECTIONS - 1];
    *s = (struct section){.key = key, .title = title, .columns = columns, .n_columns = n_columns};
    return s;
}

void section_row(struct section *s) {
    struct cell *cells = realloc(s->cells, (size_t)(s->n_rows + 1) * s->n_columns * sizeof *cells);
    if (!cells) {
        s->failed = true;
        return;
    }
    s->cells = cells;
    for (uint32_t i = 0; i < s->n_columns; i++) cells[(size_t)s->n_rows * s->n_columns + i] = (struct cell){.number = NAN};
    s->n_rows++;
}

static struct cell *last_row(struct section *s, uint32_t column) {
    return s->failed || s->n_rows == 0 ? NULL : &s->cells[(size_t)(s->n_rows - 1) * s->n_columns + column];
}

void section_text(struct section *s, uint32_t column, const char *format, ...) {
    struct cell *c = last_row(s, column);
    va_list args;
    if (!c) return;
    free(c->text);
    va_start(args, format);
    c->text = format_text(format, args);
    va_end(args);
}

void section_number(struct section *s, uint32_t column, double value, int digits) {
    struct cell *c = last_row(s, column);
    if (c) c->number = value, c->digits = digits;
}

void section_note(struct section *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = format_text(format, args);
    va_end(args);
    if (text && s->n_notes < sizeof s->notes / sizeof *s->notes) s->notes[s->n_notes++] = text;
    else free(text);
}

void report_close(struct report *r) {
    for (uint32_t i = 0; i < r->n_sections; i++) {
        struct section *s = &r->sections[i];
        for (size_t c = 0; c < (size_t)s->n_rows * s->n_columns; c++) free(s->cells[c].text);
        for (uint32_t n = 0; n < s->n_notes; n++) free(s->notes[n]);
        free(s->cells);
    }
    r->n_sections = 0;
}

/* ---- printing -------------------------------------------------------------------------------------------------------------- */

static void add_md_cell(const struct cell *c, struct text *out) {
    if (c->text) text_addf(out, " %s |", c->text);
    else if (isfinite(c->number)) text_addf(out, " %.*f |", c->digits, c->number);
    else text_addf(out, " - |");
}

static void add_md_section(const struct section *s, struct text *out) {
    text_addf(out, "\n## %s\n\n", s->title);
    if (s->n_rows) {
        text_addf(out, "|");
        for (uint32_t i = 0; i < s->n_columns; i++) text_addf(out, " %s |", s->columns[i].title);
        text_addf(out, "\n|");
        for (uint32_t i = 0; i < s->n_columns; i++) text_addf(out, "---|");
        for (uint32_t r = 0; r < s->n_rows; r++) {
            text_addf(out, "\n|");
            for (uint32_t i = 0; i < s->n_columns; i++) add_md_cell(&s->cells[(size_t)r * s->n_columns + i], out);
        }
        text_addf(out, "\n");
    }
    for (uint32_t i = 0; i < s->n_notes; i++) text_addf(out, "%s%s\n", i || s->n_rows ? "\n" : "", s->notes[i]);
    if (s->failed) text_addf(out, "\nRows are missing: no memory.\n");
}

static void add_md(const struct report *r, struct text *out) {
    text_addf(out, "# Coldstream on a GPU: measurements\n\n%s, Coldstream " COLDSTREAM_VERSION " (" COLDSTREAM_COMMIT "), bench/gpu_report%s.\n", r->date,
              r->quick ? " --quick: sizes and repeats of a smoke test, no figure means anything" : "");
    for (uint32_t i = 0; i < r->n_sections; i++) add_md_section(&r->sections[i], out);
}

static void add_string(const char *text, struct text *out) { json_write_string(span_of(text), out); }

static void add_json_row(const struct section *s, uint32_t row, struct text *out) {
    text_addf(out, "{");
    for (uint32_t i = 0; i < s->n_columns; i++) {
        const struct cell *c = &s->cells[(size_t)row * s->n_columns + i];
        text_addf(out, i ? ", \"%s\": " : "\"%s\": ", s->columns[i].key);
        if (c->text) add_string(c->text, out);
        else if (isfinite(c->number)) json_write_double(c->number, out);
        else text_addf(out, "null");
    }
    text_addf(out, "}");
}

static void add_json_section(const struct section *s, struct text *out) {
    text_addf(out, "  {\"key\": \"%s\", \"title\": ", s->key);
    add_string(s->title, out);
    text_addf(out, ", \"notes\": [");
    for (uint32_t i = 0; i < s->n_notes; i++) {
        if (i) text_addf(out, ", ");
        add_string(s->notes[i], out);
    }
    text_addf(out, "], \"rows\": [");
    for (uint32_t r = 0; r < s->n_rows; r++) {
        text_addf(out, r ? ",\n    " : "\n    ");
        add_json_row(s, r, out);
    }
    text_addf(out, "]}");
}

static void add_json(const struct report *r, struct text *out) {
    text_addf(out, "{\"report\": \"coldstream gpu_report\", \"version\": 1, \"coldstream\": \"" COLDSTREAM_VERSION "\", \"commit\": \"" COLDSTREAM_COMMIT
                   "\", \"date\": \"%s\", \"quick\": %s, \"sections\": [\n",
              r->date, r->quick ? "true" : "false");
    for (uint32_t i = 0; i < r->n_sections; i++) {
        add_json_section(&r->sections[i], out);
        text_addf(out, i + 1 < r->n_sections ? ",\n" : "\n");
    }
    text_addf(out, "]}\n");
}

/* ---- files ------------------------------------------------------------------------------------------------------------------- */

static void make_folders(const char *path) { /* what cannot be made, opening the file will tell */
    char *copy = strdup(path);
    for (char *at = copy ? strchr(copy + 1, '/') : NULL; at; at = strchr(at + 1, '/')) {
        *at = 0;
        (void)mkdir(copy, 0777);
        *at = '/';
    }
    free(copy);
}

static enum err write_one(const char *prefix, const char *suffix, struct text *content, struct reason *why) {
    struct text path = {0};
    text_addf(&path, "%s.%s", prefix, suffix);
    FILE *f = path.failed || content->failed ? NULL : fopen(path.ptr, "w");
    bool ok = f && fwrite(content->ptr, 1, content->len, f) == content->len;
    if (f) ok = fclose(f) == 0 && ok;
    const enum err e = ok ? ERR_NONE : fail(why, ERR_IO, "%s.%s: cannot be written: %s", prefix, suffix, strerror(errno));
    text_free(&path);
    return e;
}

enum err report_write(const struct report *r, const char *prefix, struct reason *why) {
    struct text md = {0}, json = {0};
    make_folders(prefix);
    add_md(r, &md);
    add_json(r, &json);
    enum err e = write_one(prefix, "md", &md, why);
    if (!e) e = write_one(prefix, "json", &json, why);
    text_free(&md);
    text_free(&json);
    return e;
}
