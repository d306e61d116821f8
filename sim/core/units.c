/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/units.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *name;
    double scale;
};

static const struct unit byte_units[] = {
    {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"PiB", 0x1p50}, {"kB", 1e3},
    {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"PB", 1e15},    {NULL, 0},
};
static const struct unit second_units[] = {
    {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}, {NULL, 0},
};
static const struct unit rate_units[] = {
    {"/s", 1}, {"/min", 1.0 / 60}, {"/h", 1.0 / 3600}, {"/d", 1.0 / 86400}, {NULL, 0}};
static const struct unit bandwidth_units[] = {
    {"B/s", 1},        {"KB/s", 1e3},     {"kB/s", 1e3},     {"MB/s", 1e6},     {"GB/s", 1e9}, {"TB/s", 1e12},
    {"KiB/s", 0x1p10}, {"MiB/s", 0x1p20}, {"GiB/s", 0x1p30}, {"TiB/s", 0x1p40}, {NULL, 0},
};
static const struct unit flop_units[] = {
    {"FLOP/s", 1}, {"MFLOP/s", 1e6}, {"GFLOP/s", 1e9}, {"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}, {NULL, 0},
};

/* A number at the start of `text`; NULL when there is none. hexadecimal, inf and nan are no numbers of a config. */
static const char *number_end(const char *text, double *value)
{
    const char *digits = text + (*text == '-' || *text == '+');
    if (!isdigit((unsigned char)*digits) && *digits != '.')
        return NULL;
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X'))
        return NULL;
    char *end;
    *value = strtod(text, &end);
    return end == text ? NULL : end;
}

static const char *not_a_number(struct kv_arena *a, const char *text, const char *wanted)
{
    if (!*text)
        return "has no value";
    if (strchr(text, '#'))
        return kv_format(a, "'%s': '#' does not start a comment here, use ' ;'", text);
    return kv_format(a, "'%s' is not %s", text, wanted);
}

const char *kv_read_real(struct kv_arena *a, const char *text, double *out)
{
    double value;
    const char *end = number_end(text, &value);
    if (!end || *end)
        return not_a_number(a, text, "a number");
    if (!isfinite(value))
        return kv_format(a, "'%s' is too large", text);
    *out = value;
    return NULL;
}

const char *kv_read_count(struct kv_arena *a, const char *text, int64_t *out)
{
    bool negative = *text == '-';
    const char *c = text + (*text == '-' || *text == '+');
    if (!isdigit((unsigned char)*c))
        return not_a_number(a, text, "a whole number");
    int64_t value = 0;
    bool overflow = false;
    for (; isdigit((unsigned char)*c); c++)
        overflow |= __builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c - '0', &value);
    static const struct {
        const char *letter, *name;
        int64_t scale;
    } multiple[] = {{"kK", "Ki", 1024}, {"mM", "Mi", 1024 * 1024}, {"gG", "Gi", 1024 * 1024 * 1024}};
    for (size_t i = 0; i < sizeof multiple / sizeof *multiple; i++) {
        if (!*c || !strchr(multiple[i].letter, *c))
            continue;
        if (!strcmp(c, multiple[i].name)) {
            overflow |= __builtin_mul_overflow(value, multiple[i].scale, &value);
            c += 2;
        } else if (!c[1]) {
            int64_t thousand = i == 0 ? 1000 : i == 1 ? 1000000 : 1000000000, decimal, binary;
            if (overflow || __builtin_mul_overflow(value, thousand, &decimal) ||
                __builtin_mul_overflow(value, multiple[i].scale, &binary))
                return kv_format(a, "'%s' is too large", text);
            const char *sign = negative ? "-" : "";
            return kv_format(a, "'%s': write %s%lld or %s%lld (%c is ambiguous)", text, sign, (long long)decimal, sign,
                             (long long)binary, *c);
        }
        break;
    }
    if (*c)
        return not_a_number(a, text, "a whole number");
    if (overflow)
        return kv_format(a, "'%s' is too large", text);
    *out = negative ? -value : value;
    return NULL;
}

static const char *unit_names(struct kv_arena *a, const struct unit *units)
{
    const char *names = kv_format(a, "'%s'", units->name);
    for (units++; units->name; units++)
        names = kv_format(a, "%s, '%s'", names, units->name);
    return names;
}

/* NUMBER UNIT, with blanks between or none. */
static const char *read_scaled(struct kv_arena *a, const char *text, const struct unit *units, const char *example,
                               double *number, double *scale)
{
    const char *end = number_end(text, number);
    if (!end)
        return not_a_number(a, text, kv_format(a, "a number with a unit, as in '%s'", example));
    end += strspn(end, " \t");
    for (const struct unit *u = units; u->name; u++)
        if (!strcmp(end, u->name)) {
            *scale = u->scale;
            return isfinite(*number * u->scale) ? NULL : kv_format(a, "'%s' is too large", text);
        }
    if (strchr(end, '#'))
        return not_a_number(a, text, "a number");
    if (!*end)
        return kv_format(a, "'%s' has no unit: write it as in '%s'", text, example);
    return kv_format(a, "'%s': unit '%s' is not one of %s", text, end, unit_names(a, units));
}

const char *kv_read_bytes(struct kv_arena *a, const char *text, int64_t *out)
{
    double number = 0, scale = 0;
    const char *why = read_scaled(a, text, byte_units, "80 GiB", &number, &scale);
    if (why)
        return why;
    double bytes = number * scale;
    if (fabs(bytes) >= 0x1p63)
        return kv_format(a, "'%s' is too large", text);
    *out = (int64_t)llrint(bytes);
    return NULL;
}

static const char *read_real_unit(struct kv_arena *a, const char *text, const struct unit *units, const char *example,
                                  double *out)
{
    double number = 0, scale = 0;
    const char *why = read_scaled(a, text, units, example, &number, &scale);
    if (why)
        return why;
    *out = number * scale;
    return NULL;
}

const char *kv_read_seconds(struct kv_arena *a, const char *text, double *out)
{
    return read_real_unit(a, text, second_units, "30 s", out);
}

const char *kv_read_rate(struct kv_arena *a, const char *text, double *out)
{
    return read_real_unit(a, text, rate_units, "12 /s", out);
}

const char *kv_read_bandwidth(struct kv_arena *a, const char *text, double *out)
{
    return read_real_unit(a, text, bandwidth_units, "4.8 TB/s", out);
}

const char *kv_read_flops(struct kv_arena *a, const char *text, double *out)
{
    return read_real_unit(a, text, flop_units, "989 TFLOP/s", out);
}

const char *kv_read_share(struct kv_arena *a, const char *text, double *out)
{
    double value;
    const char *end = number_end(text, &value);
    const char *unit = end ? end + strspn(end, " \t") : NULL;
    if (!end || (*unit && strcmp(unit, "%")))
        return not_a_number(a, text, "a share, as in '30 %' or '0.3'");
    if (*unit == '%')
        value /= 100;
    if (!(value >= 0 && value <= 1))
        return *unit || value < 0 || value > 100
                   ? kv_format(a, "'%s' is outside 0 %% .. 100 %%", text)
                   : kv_format(a, "'%s' is outside 0 .. 1: write '%s %%' or a fraction", text, text);
    *out = value;
    return NULL;
}

const char *kv_read_bool(struct kv_arena *a, const char *text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(text, words[i])) {
            *out = i & 1;
            return NULL;
        }
    return not_a_number(a, text, "'true' or 'false'");
}

const char *kv_print_bytes(char text[KV_NUMBER_TEXT], int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (fabs(value) >= (unit ? 1023.995 : 1024) && unit < sizeof units / sizeof *units - 1) {
        value /= 1024;
        unit++;
    }
    snprintf(text, KV_NUMBER_TEXT, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

const char *kv_print_count(char text[KV_NUMBER_TEXT], int64_t count)
{
    char digits[KV_NUMBER_TEXT];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)count), out = 0;
    for (int i = 0; i < n; i++) {
        text[out++] = digits[i];
        int left = n - 1 - i;
        if (left && left % 3 == 0 && digits[i] != '-')
            text[out++] = ',';
    }
    text[out] = '\0';
    return text;
}

const char *kv_print_share(char text[KV_NUMBER_TEXT], double share)
{
    snprintf(text, KV_NUMBER_TEXT, "%.1f %%", share * 100);
    return text;
}

const char *kv_print_real(char text[KV_NUMBER_TEXT], double value)
{
    /* 15 digits of a normal number always survive, and %g drops trailing zeros: so the first that reads back is the
     * shortest. */
    for (int digits = fabs(value) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
        snprintf(text, KV_NUMBER_TEXT, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (!strpbrk(text, ".en"))
        strcat(text, ".0");
    return text;
}
