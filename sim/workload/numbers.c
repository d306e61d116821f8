/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Times and counts as files write them, exactly: no time passes through a double. */
#include "sim/workload/format.h"

#include <stdlib.h>
#include <string.h>

static const int64_t second_ns = 1000000000;

static bool digits(const char *text, int n, int *out)
{
    *out = 0;
    for (int i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *out = 10 * *out + (text[i] - '0');
    }
    return true;
}

/* Days since 1970-01-01 (Hinnant's days_from_civil). */
static int64_t days(int year, int month, int day)
{
    int y = year - (month <= 2);
    int era = y / 400, of_era = y % 400;
    int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int month_days(int year, int month)
{
    static const int of[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return of[month - 1] + (month == 2 && leap);
}

/* What follows the seconds: "Z", "+HH:MM", "+HHMM", "+HH" or nothing. */
static bool read_zone(const char *text, size_t n, int64_t *seconds)
{
    int hours, minutes = 0;
    *seconds = 0;
    if (!n || (n == 1 && *text == 'Z'))
        return true;
    if ((*text != '+' && *text != '-') || n < 3 || !digits(text + 1, 2, &hours))
        return false;
    if (n == 5 ? !digits(text + 3, 2, &minutes) : n == 6 ? text[3] != ':' || !digits(text + 4, 2, &minutes) : n != 3)
        return false;
    *seconds = (hours * 60 + minutes) * 60 * (*text == '-' ? -1 : 1);
    return hours < 24 && minutes < 60;
}

bool kv_stamp_within_day(const char *text, size_t length, int64_t *ns)
{
    int hour, minute, second;
    int64_t zone, below = 0, unit = second_ns;
    if (length < 19 || (text[10] != ' ' && text[10] != 'T') || text[13] != ':' || text[16] != ':' ||
        !digits(text + 11, 2, &hour) || !digits(text + 14, 2, &minute) || !digits(text + 17, 2, &second) || hour > 23 ||
        minute > 59 || second > 60)
        return false;
    size_t i = 19;
    if (i < length && (text[i] == '.' || text[i] == ',')) {
        for (i++; i < length && text[i] >= '0' && text[i] <= '9' && unit > 1; i++) {
            unit /= 10;
            below += (text[i] - '0') * unit;
        }
        if (unit == second_ns)
            return false;
    }
    if (!read_zone(text + i, length - i, &zone))
        return false;
    *ns = ((hour * 60 + minute) * 60 + second - zone) * second_ns + below;
    return true;
}

bool kv_stamp_read(const char *text, size_t length, int64_t *ns)
{
    int year, month, day;
    int64_t within;
    if (length < 19 || text[4] != '-' || text[7] != '-' || !digits(text, 4, &year) || !digits(text + 5, 2, &month) ||
        !digits(text + 8, 2, &day) || year < 1971 || year > 2261 || month < 1 || month > 12 || day < 1 ||
        day > month_days(year, month) || !kv_stamp_within_day(text, length, &within))
        return false;
    *ns = days(year, month, day) * 86400 * second_ns + within;
    return true;
}

const char *kv_decimal_ns(const char *text, size_t length, int64_t unit_ns, int64_t *ns)
{
    const char *c = text, *end = text + length;
    bool negative = c < end && *c == '-';
    int64_t whole = 0, below = 0, unit = unit_ns, most = INT64_C(4000000000) * second_ns / unit_ns;
    bool some = false;
    for (c += negative; c < end && *c >= '0' && *c <= '9'; c++, some = true) {
        if (whole > most / 10)
            return "is too large; times are at most 4e9 s";
        whole = 10 * whole + (*c - '0');
    }
    if (c < end && *c == '.') {
        for (c++; c < end && *c >= '0' && *c <= '9'; c++, some = true) {
            if (unit == 0)
                continue;
            below += (*c - '0') * (unit / 10) + ((*c - '0') * (unit % 10) + 5) / 10;
            unit /= 10;
        }
    }
    if (some && c < end && (*c == 'e' || *c == 'E')) { /* rare, and then not exact */
        char copy[64], *stop;
        if (length >= sizeof copy)
            return "is not a number";
        memcpy(copy, text, length);
        copy[length] = '\0';
        double value = strtod(copy, &stop);
        if (stop != copy + length || !(value >= -4e9 && value * ((double)unit_ns / 1e9) <= 4e9))
            return "is not a number, or is too large; times are at most 4e9 s";
        *ns = (int64_t)(value * (double)unit_ns + (value < 0 ? -0.5 : 0.5));
        return *ns < 0 ? "is negative" : NULL;
    }
    if (!some || c < end)
        return "is not a number";
    if (whole > most)
        return "is too large; times are at most 4e9 s";
    *ns = whole * unit_ns + below;
    return negative && *ns ? "is negative" : NULL;
}

const char *kv_whole_read(const char *text, size_t length, int64_t most, int64_t *out)
{
    const char *c = text, *end = text + length;
    bool negative = c < end && *c == '-', huge = false;
    int64_t value = 0;
    for (c += negative; c < end && *c >= '0' && *c <= '9'; c++) {
        value = 10 * value + (*c - '0');
        huge |= value > most;
        value = huge ? most : value;
    }
    /* "123.0", as tables written by way of floating point have it */
    bool whole = c > text + negative;
    if (whole && c + 1 < end && *c == '.')
        for (c++; c < end && *c == '0'; c++)
            ;
    if (!whole || c < end)
        return "is not a whole number";
    if (negative && (value || huge))
        return "is negative";
    if (huge)
        return "is too large";
    *out = value;
    return NULL;
}
