/* Texts of numbers, read whole: "32x", "1e3k" and "" are errors, never 32, 1 and 0. Pure functions. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Digits with an optional sign; *end points behind them. False: none, or out of range. */
static bool read_integer(const char *text, int64_t *out, const char **end) {
    const char *digits = text + (*text == '-' || *text == '+');
    if (*digits < '0' || *digits > '9') return false;
    char *stop;
    errno = 0;
    const long long value = strtoll(text, &stop, 10);
    *out = value;
    *end = stop;
    return errno == 0;
}

bool parse_whole(const char *text, int64_t *out) {
    const char *end;
    return read_integer(text, out, &end) && *end == 0;
}

bool parse_tokens(const char *text, int64_t *out) {
    const char *end;
    int64_t value, factor = 1;
    if (!read_integer(text, &value, &end)) return false;
    if (strcasecmp(end, "k") == 0)
        factor = 1024;
    else if (strcasecmp(end, "m") == 0)
        factor = 1024 * 1024;
    else if (*end)
        return false;
    return !__builtin_mul_overflow(value, factor, out);
}

/* A decimal number without exponent sign tricks: digits, one point, e with digits. *end points behind it. */
static bool read_real(const char *text, double *out, const char **end) {
    const size_t length = strspn(text, "0123456789+-.eE");
    if (strcspn(text, "0123456789") >= length) return false;
    char *stop;
    const double value = strtod(text, &stop);
    if (stop == text || stop > text + length || !isfinite(value)) return false; /* behind it: "0x10" */
    *out = value;
    *end = stop;
    return true;
}

bool parse_real(const char *text, double *out) {
    const char *end;
    return read_real(text, out, &end) && *end == 0;
}

bool parse_bytes(const char *text, int64_t *out) {
    static const char letters[] = "kmgt";
    const char *end;
    double value;
    if (!read_real(text, &value, &end) || value < 0) return false;
    double factor = 1;
    if (*end) {
        const char *letter = strchr(letters, *end | 0x20);
        if (!letter) return false;
        factor = (double)((int64_t)1 << (10 * (letter - letters + 1)));
        if (strcmp(end + 1, "") != 0 && strcasecmp(end + 1, "ib") != 0 && strcasecmp(end + 1, "b") != 0) return false;
    } else if (value != floor(value)) {
        return false;
    }
    if (value * factor >= 9.2e18) return false;
    *out = (int64_t)(value * factor);
    return true;
}
