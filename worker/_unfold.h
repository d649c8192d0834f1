/* What worker/unfold.py does, which is the reference: JSON texts unfolded, times out of fields. Each function says YES,
 * NO, or UNSURE where it cannot say with certainty what Python would: then Python is asked.
 *
 * A text is judged where it lies in the output, with a NUL behind it. NUL is nowhere part of JSON, so a reader that goes on
 * only from bytes that are stays in the text; sixteen bytes may be loaded at a time, for SLACK bytes are there. Nothing
 * recurses.
 */
#ifndef UNFOLD_H
#define UNFOLD_H
#include "_text.h"

typedef enum { NO, YES, UNSURE } Verdict;

/* Containers in one another that are counted here: with what is in them, one level less than what unfold.py takes. */
#define DEEPEST 59
/* Digits before the point, and an exponent's: less than these are a number that a double holds. */
#define LONGEST_NUMBER 300

/* A name in an object whose value may be JSON in JSON; and what the text at hand has of it. The name holds no byte that has
 * a meaning in JSON. `hits` are the keys at any depth that end like it, `tight` says that orjson would space it so. */
typedef struct { Text name; u8 *value; u32 hits; int tight; } Below;
typedef struct { Text name; Below *below; size_t count; u32 id; } Path;
/* `inner`: keys are counted only; `total` is their sum. `escaped`: a key of the object itself is written with escapes. */
typedef struct { Below *below; size_t count; int inner, escaped; u32 total; } Watch;

/* ---- JSON as strictly as orjson reads it ---- */

static inline u8 *skip_space(u8 *p) {
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
    return p;
}

static inline u8 *skip_digits(u8 *p) {
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

/* The same, and NULL where there is none. */
static inline u8 *skip_some_digits(u8 *p) {
    u8 *end = skip_digits(p);
    return end == p ? NULL : end;
}

/* Four hexadecimal digits; -1 where they are not. */
static int read_hex(const u8 *p) {
    int found = 0;
    for (int i = 0; i < 4; i++) {
        u8 digit = (u8)(p[i] - '0'), letter = (u8)((p[i] | 0x20) - 'a');
        if (digit > 9 && letter > 5) return -1;
        found = found << 4 | (digit > 9 ? letter + 10 : digit);
    }
    return found;
}

#define IS_HIGH_SURROGATE(unit) ((unit) >> 10 == 0x36)
#define IS_LOW_SURROGATE(unit) ((unit) >> 10 == 0x37)

/* Behind an escape, of which p is the byte behind the backslash; NULL where it is none. */
static u8 *skip_escape(u8 *p) {
    if (*p != 'u') return *p && strchr("\"\\/bfnrt", *p) ? p + 1 : NULL;
    int unit = read_hex(p + 1);
    if (unit < 0 || IS_LOW_SURROGATE(unit)) return NULL;
    if (!IS_HIGH_SURROGATE(unit)) return p + 5;
    return p[5] == '\\' && p[6] == 'u' && IS_LOW_SURROGATE(read_hex(p + 7)) ? p + 11 : NULL;
}

/* A bit for each of sixteen bytes that is a control, a quote or a backslash. */
#if defined(__SSE2__)
static inline u32 find_ends(const u8 *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v);
    __m128i found = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    return (u32)_mm_movemask_epi8(_mm_or_si128(control, found));
}
#else
static inline u32 find_ends(const u8 *p) {
    int i = 0;
    while (i < 16 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') i++;
    return i < 16 ? 1u << i : 0;
}
#endif

/* Behind a string, of which p is the first byte in the quotes; NULL where it is broken. */
static inline u8 *skip_string(u8 *p) {
    for (;;) {
        u32 mask = find_ends(p);
        if (!mask) {
            p += 16;
            continue;
        }
        p += __builtin_ctz(mask);
        if (*p == '"') return p + 1;
        if (*p != '\\' || !(p = skip_escape(p + 1))) return NULL;
    }
}

/* Behind a number; NULL where it is none. *huge where a double may not hold it, which orjson refuses. */
static u8 *skip_number(u8 *p, int *huge) {
    if (*p == '-') p++;
    u8 *start = p;
    p = *p == '0' ? p + 1 : skip_digits(p);
    long size = p - start, exponent = 0;
    if (!size || (*p == '.' && !(p = skip_some_digits(p + 1)))) return NULL;
    if ((*p | 0x20) == 'e') {
        int negative = *++p == '-';
        if (*p == '-' || *p == '+') p++;
        u8 *digits = p;
        if (!(p = skip_some_digits(p))) return NULL;
        if (p - digits > 3) *huge = 1;
        else for (; digits < p && !negative; digits++) exponent = exponent * 10 + *digits - '0';
    }
    if (size + exponent > LONGEST_NUMBER) *huge = 1;
    return p;
}

static inline u8 *skip_scalar(u8 *p, int *huge) {
    switch (*p) {
        case '"': return skip_string(p + 1);
        case 't': return strncmp((const char *)p, "true", 4) ? NULL : p + 4;
        case 'f': return strncmp((const char *)p, "false", 5) ? NULL : p + 5;
        case 'n': return strncmp((const char *)p, "null", 4) ? NULL : p + 4;
        default: return skip_number(p, huge);
    }
}

/* A key from its opening quote to behind its closing one. One that ends in a quote and the name, as text, is as good as the
 * name itself for a search in the text, and that is what unfold.py does. */
static void note_key(Watch *watch, const u8 *start, u8 *end, u8 *value, int depth) {
    size_t size = (size_t)(end - 1 - start);
    for (size_t i = 0; i < watch->count; i++) {
        Below *one = &watch->below[i];
        if (size <= one->name.size || end[-2 - (long)one->name.size] != '"' ||
            memcmp(end - 1 - one->name.size, one->name.at, one->name.size))
            continue;
        watch->total++;
        if (watch->inner) continue;
        one->hits++;
        if (depth > 1 || size != one->name.size + 1) continue;
        one->value = value;
        one->tight = value == end + 1 || (value == end + 2 && end[1] == ' ');
    }
    if (depth == 1 && memchr(start, '\\', size)) watch->escaped = 1;
}

/* A key and its colon; the value's first byte, NULL where it is none. */
static inline u8 *skip_key(u8 *p, Watch *watch, int depth) {
    u8 *start = p, *end;
    if (*p != '"' || !(end = skip_string(p + 1))) return NULL;
    p = skip_space(end);
    if (*p != ':') return NULL;
    p = skip_space(p + 1);
    if (watch->count) note_key(watch, start, end, p, depth);
    return p;
}

/* Whether the text from p, where an object or an array begins, is JSON that ends at `end`, where a NUL is. */
static Verdict check_json(u8 *p, const u8 *end, Watch *watch) {
    u64 objects = 0; /* a bit for each level */
    int depth = 0, huge = 0;
    for (;;) {
        if (*p == '{' || *p == '[') {
            int is_object = *p == '{';
            if (++depth > DEEPEST) return UNSURE;
            objects = objects << 1 | (u64)is_object;
            p = skip_space(p + 1);
            if (*p != (is_object ? '}' : ']')) {
                if (is_object && !(p = skip_key(p, watch, depth))) return NO;
                continue;
            }
        } else if ((p = skip_scalar(p, &huge)))
            p = skip_space(p);
        else
            return NO;
        for (; depth && *p == (objects & 1 ? '}' : ']'); depth--, objects >>= 1) p = skip_space(p + 1);
        if (!depth) return p != end ? NO : huge ? UNSURE : YES;
        if (*p != ',') return NO;
        p = skip_space(p + 1);
        if (objects & 1 && !(p = skip_key(p, watch, depth))) return NO;
    }
}

/* ---- JSON in JSON ---- */

static u8 *put_character(u8 *o, u32 c) {
    if (c < 0x80) *o++ = (u8)c;
    else {
        if (c < 0x800) *o++ = (u8)(0xC0 | c >> 6);
        else {
            if (c < 0x10000) *o++ = (u8)(0xE0 | c >> 12);
            else {
                *o++ = (u8)(0xF0 | c >> 18);
                *o++ = (u8)(0x80 | (c >> 12 & 0x3F));
            }
            *o++ = (u8)(0x80 | (c >> 6 & 0x3F));
        }
        *o++ = (u8)(0x80 | (c & 0x3F));
    }
    return o;
}

/* What an escape says, p as for skip_escape. *same stays where orjson would write it so. */
static const u8 *put_unescaped(u8 **o, const u8 *p, int *same) {
    static const char letters[] = "bfnrt", values[] = "\b\f\n\r\t";
    if (*p != 'u') {
        const char *found = strchr(letters, *p);
        *same &= *p != '/';
        *(*o)++ = found ? (u8)values[found - letters] : *p;
        return p + 1;
    }
    u32 unit = (u32)read_hex(p + 1);
    *same &= unit < 0x20 && escape_sizes[unit] == 6 && !memcmp(escapes[unit], p - 1, 6);
    if (IS_HIGH_SURROGATE(unit)) {
        unit = 0x10000 + ((unit & 0x3FF) << 10) + ((u32)read_hex(p + 7) & 0x3FF);
        p += 6;
    }
    *o = put_character(*o, unit);
    return p + 5;
}

/* What a sound string says, of which p is the first byte in the quotes; behind it, p is at the closing quote. */
static u8 *put_unquoted(u8 *o, const u8 **p, int *same) {
    const u8 *q = *p;
    while (*q != '"')
        if (*q != '\\') *o++ = *q++;
        else q = put_unescaped(&o, q + 1, same);
    *p = q;
    return o;
}

/* The JSON text in a string put in its place. Behind the outer text there is room for another one as long. */
static Verdict unfold_below(Path *path, Below *one, u8 **end) {
    if (!one->value || *one->value != '"') return NO;
    u8 *start = *end + 1;
    const u8 *p = one->value + 1;
    int same = 1;
    u8 *stop = put_unquoted(start, &p, &same);
    *stop = 0;
    if (*start != '{' && *start != '[') return NO;
    Watch watch = {path->below, path->count, 1, 0, 0};
    Verdict verdict = check_json(start, stop, &watch);
    if (verdict != YES) return verdict;
    /* found once, as orjson would write it: otherwise Python writes the text anew, or finds another place */
    if (!same || !one->tight || one->hits != 1 || watch.total) return UNSURE;
    size_t before = (size_t)(p + 1 - one->value), size = (size_t)(stop - start), rest = (size_t)(*end - (p + 1));
    u8 *at = one->value;
    memcpy(at, start, size);
    memmove(at + size, p + 1, rest);
    *end -= before - size;
    **end = 0;
    for (size_t i = 0; i < path->count; i++)
        if (path->below[i].value > at) path->below[i].value -= before - size;
    return YES;
}

/* Whether the text from o to *end may stand in the event as it is; JSON in it is unfolded, which makes it shorter. */
static Verdict unfold_text(u8 *o, u8 **end, Path *path) {
    **end = 0;
    if (*o != '{' && *o != '[') return NO;
    for (size_t i = 0; i < path->count; i++) {
        path->below[i].value = NULL;
        path->below[i].hits = 0;
    }
    Watch watch = {path->below, path->count, 0, 0, 0};
    Verdict verdict = check_json(o, *end, &watch);
    if (verdict != YES) return verdict;
    if (watch.escaped) return UNSURE;
    for (size_t i = 0; i < path->count; i++)
        if (unfold_below(path, &path->below[i], end) == UNSURE) return UNSURE;
    return YES;
}

/* ---- time ---- */

static inline int is_space(u8 c) {
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
}

/* So many digits; -1 where they are not. */
static int read_digits(const u8 *p, int count) {
    int found = 0;
    for (; count; count--, p++) {
        if (*p < '0' || *p > '9') return -1;
        found = found * 10 + *p - '0';
    }
    return found;
}

/* Nanoseconds out of one to nine digits. */
static u32 read_fraction(Text digits) {
    u32 found = 0;
    for (size_t i = 0; i < 9; i++) found = found * 10 + (i < digits.size ? (u32)(digits.at[i] - '0') : 0);
    return found;
}

static u8 *put_decimal(u8 *o, u64 seconds, u32 nanoseconds) {
    o = put_number(o, seconds);
    return nanoseconds && nanoseconds < 1000000000 ? put_nanoseconds(o, nanoseconds) : o;
}

/* An epoch in seconds, with or without a fraction, in milliseconds, microseconds or nanoseconds: by its digits. */
static Verdict put_epoch(u8 **o, Text whole, Text fraction) {
    static const u32 units[] = {1, 1000, 1000000, 1000000000};
    u64 number = 0;
    if (whole.size < 10 || whole.size > 19 || (whole.size - 10) % 3 || (fraction.size && whole.size != 10)) return NO;
    if (fraction.size) {
        *o = put_nanoseconds(put_bytes(*o, whole), read_fraction(fraction));
        return YES;
    }
    for (size_t i = 0; i < whole.size; i++) number = number * 10 + whole.at[i] - '0';
    u32 unit = units[(whole.size - 10) / 3];
    *o = put_decimal(*o, number / unit, (u32)(number % unit) * (1000000000 / unit));
    return YES;
}

/* Days since 1970-01-01; -1 where there is no such day. */
static long count_days(int year, int month, int day) {
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    int leap = year % 4 == 0 && (year % 100 || year % 400 == 0);
    if (year < 1970 || month < 1 || month > 12 || day < 1) return -1;
    if (day > before[month] - before[month - 1] + (leap && month == 2)) return -1;
    long years = year - 1; /* whole ones since the year 1 */
    return years * 365 + years / 4 - years / 100 + years / 400 - 719162 + before[month - 1] + (leap && month > 2) + day - 1;
}

/* Seconds that a time is ahead of UTC, of what stands behind it: nothing, Z, +hh:mm or -hh:mm. */
static Verdict read_offset(Text zone, long *offset) {
    *offset = 0;
    if (!zone.size || (zone.size == 1 && *zone.at == 'Z')) return YES;
    if (zone.size != 6 || (*zone.at != '+' && *zone.at != '-') || zone.at[3] != ':') return UNSURE;
    int hours = read_digits(zone.at + 1, 2), minutes = read_digits(zone.at + 4, 2);
    if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return UNSURE;
    *offset = (hours * 60L + minutes) * (*zone.at == '-' ? -60 : 60);
    return YES;
}

/* ISO 8601 as nearly everybody writes it, from 1970 to 2106: 2026-01-01T00:00:01.5+08:00. */
static Verdict put_iso(u8 **o, const u8 *p, const u8 *end) {
    if (end - p < 7 || read_digits(p, 4) < 0) return NO; /* every form begins with a year */
    if (end - p < 19 || p[4] != '-' || p[7] != '-' || (p[10] != 'T' && p[10] != ' ') || p[13] != ':' || p[16] != ':')
        return UNSURE;
    long days = count_days(read_digits(p, 4), read_digits(p + 5, 2), read_digits(p + 8, 2)), offset;
    int hours = read_digits(p + 11, 2), minutes = read_digits(p + 14, 2), seconds = read_digits(p + 17, 2);
    if (days < 0 || hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || seconds < 0 || seconds > 59) return UNSURE;
    Text fraction = {p + 20, 0};
    p += 19;
    if (p < end && *p == '.') {
        for (p++; p < end && *p >= '0' && *p <= '9'; p++) fraction.size++;
        if (!fraction.size || fraction.size > 9) return UNSURE;
    }
    if (read_offset((Text){p, (size_t)(end - p)}, &offset) != YES) return UNSURE;
    int64_t time = (int64_t)days * 86400 + hours * 3600 + minutes * 60 + seconds - offset;
    if (time < 0 || time > UINT32_MAX) return UNSURE;
    *o = put_decimal(*o, (u64)time, read_fraction(fraction) / 1000 * 1000); /* Python knows microseconds */
    return YES;
}

/* The time that a field holds, in decimal seconds. At most 32 bytes. */
static Verdict put_time(u8 **o, Text value) {
    const u8 *p = value.at, *end = p + value.size, *q;
    for (q = p; q < end; q++)
        if (*q >= 0x80) return UNSURE; /* there are more spaces */
    while (p < end && is_space(*p)) p++;
    while (p < end && is_space(end[-1])) end--;
    for (q = p; q < end && *q >= '0' && *q <= '9'; q++) continue;
    Text whole = {p, (size_t)(q - p)}, fraction = {q + 1, 0};
    if (q < end && *q == '.')
        for (q++; q < end && *q >= '0' && *q <= '9'; q++) fraction.size++;
    if (q < end || !whole.size || whole.size > 20 || fraction.size > 9 || (!fraction.size && q != p + whole.size))
        return put_iso(o, p, end);
    return put_epoch(o, whole, fraction);
}

#endif
