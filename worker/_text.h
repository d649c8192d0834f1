/* Texts and numbers as they stand in JSON: orjson's escapes, invalid UTF-8 as U+FFFD.
 *
 * Sixteen bytes are loaded at a time where the body has sixteen left, so a load may pass the end of a value, never the
 * end of the body. A writer may spoil SLACK bytes behind what it has written.
 */
#ifndef TEXT_H
#define TEXT_H
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

/* Room that a writer may spoil behind what it has written. Bytes. */
#define SLACK 64

typedef struct { const u8 *at; size_t size; } Text;

/* 1: an escape, or the first byte of something longer. */
static u8 special[256];
static char escapes[128][8];
static u8 escape_sizes[128];

static void make_tables(void) {
    static const char hex[] = "0123456789abcdef", shorts[] = "b\bt\tn\nf\fr\r\"\"\\\\";
    for (int c = 0; c < 256; c++) special[c] = c < 0x20 || c >= 0x80 || c == '"' || c == '\\';
    for (int c = 0; c < 0x20; c++) {
        memcpy(escapes[c], "\\u00", 4);
        escapes[c][4] = hex[c >> 4];
        escapes[c][5] = hex[c & 15];
        escape_sizes[c] = 6;
    }
    for (const char *s = shorts; *s; s += 2) {
        escapes[(u8)s[1]][0] = '\\';
        escapes[(u8)s[1]][1] = s[0];
        escape_sizes[(u8)s[1]] = 2;
    }
}

#define IS_CONTINUATION(c) (((c) & 0xC0) == 0x80)

/* How many bytes stand at p for one character; negative: that many are invalid, as Python's decoder counts them. */
static inline int utf8_size(const u8 *p, const u8 *end) {
    u8 c = p[0];
    size_t left = (size_t)(end - p);
    if (c < 0xC2 || c > 0xF4) return -1;
    if (c < 0xE0) return left > 1 && IS_CONTINUATION(p[1]) ? 2 : -1;
    u8 low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (left < 2 || p[1] < low || p[1] > high) return -1;
    if (left < 3 || !IS_CONTINUATION(p[2])) return -2;
    if (c < 0xF0) return 3;
    return left > 3 && IS_CONTINUATION(p[3]) ? 4 : -3;
}

static inline const u8 *put_long(u8 **out, const u8 *p, const u8 *end) {
    u8 *o = *out;
    do {
        int size = utf8_size(p, end);
        if (size < 0) {
            memcpy(o, "\xEF\xBF\xBD", 3);
            o += 3;
            p -= size;
            continue;
        }
        for (int i = 0; i < size; i++) *o++ = *p++;
    } while (p < end && *p >= 0x80);
    *out = o;
    return p;
}

/* Sixteen bytes copied; a bit for each that cannot stand as it is. */
#if defined(__SSE2__)
static inline u32 copy16(u8 *o, const u8 *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    _mm_storeu_si128((__m128i *)(void *)o, v);
    /* signed: below 0x20 are the controls and everything from 0x80 up */
    __m128i bad = _mm_or_si128(_mm_cmplt_epi8(v, _mm_set1_epi8(0x20)),
                               _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))));
    return (u32)_mm_movemask_epi8(bad);
}
#else
static inline u32 copy16(u8 *o, const u8 *p) {
    u64 words[2];
    memcpy(words, p, 16);
    memcpy(o, words, 16);
    const u64 ones = 0x0101010101010101ull, highs = ones * 0x80;
    u64 bad = 0;
    for (int i = 0; i < 2; i++) {
        u64 w = words[i], quote = w ^ ones * '"', slash = w ^ ones * '\\';
        bad |= ((w - ones * 0x20) | (quote - ones) | (slash - ones) | w) & highs;
    }
    u32 mask = 0;
    if (bad) /* which ones, byte by byte: the same on either byte order */
        for (int i = 0; i < 16; i++) mask |= (u32)special[p[i]] << i;
    return mask;
}
#endif

/* Text as it stands between quotes in JSON: orjson's escapes, invalid UTF-8 as U+FFFD. Needs 6 bytes of room for each
 * and SLACK; reads before `limit` only. */
static u8 *put_text(u8 *o, const u8 *p, const u8 *end, const u8 *limit) {
    while (p < end) {
        if (limit - p >= 16) {
            u32 mask = copy16(o, p);
            size_t left = (size_t)(end - p);
            if (left < 16) mask |= 1u << left;
            if (!mask) {
                p += 16;
                o += 16;
                continue;
            }
            int clean = __builtin_ctz(mask);
            p += clean;
            o += clean;
            if (p == end) return o;
        } else if (!special[*p]) {
            *o++ = *p++;
            continue;
        }
        if (*p < 0x80) {
            memcpy(o, escapes[*p], 8);
            o += escape_sizes[*p++];
        } else
            p = put_long(&o, p, end);
    }
    return o;
}

/* Sixteen bytes copied; a bit for each that is not ASCII. */
#if defined(__SSE2__)
static inline u32 copy_ascii(u8 *o, const u8 *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    _mm_storeu_si128((__m128i *)(void *)o, v);
    return (u32)_mm_movemask_epi8(v);
}
#else
static inline u32 copy_ascii(u8 *o, const u8 *p) {
    u32 mask = 0;
    memcpy(o, p, 16);
    for (int i = 0; i < 16; i++) mask |= (u32)(p[i] >> 7) << i;
    return mask;
}
#endif

/* Text as it came but for invalid UTF-8, which becomes U+FFFD. Needs 3 bytes of room for each and SLACK; reads before
 * `limit` only. */
static u8 *put_repaired(u8 *o, const u8 *p, const u8 *end, const u8 *limit) {
    while (p < end) {
        if (limit - p >= 16) {
            u32 mask = copy_ascii(o, p);
            size_t left = (size_t)(end - p);
            if (left < 16) mask |= 1u << left;
            int clean = mask ? __builtin_ctz(mask) : 16;
            p += clean;
            o += clean;
            if (!mask) continue;
            if (p == end) return o;
        } else if (*p < 0x80) {
            *o++ = *p++;
            continue;
        }
        p = put_long(&o, p, end);
    }
    return o;
}

static u8 *put_number(u8 *o, u64 number) {
    u8 digits[20];
    int size = 0;
    do digits[size++] = (u8)('0' + number % 10);
    while (number /= 10);
    while (size) *o++ = digits[--size];
    return o;
}

static u8 *put_nanoseconds(u8 *o, u32 number) {
    *o = '.';
    for (int i = 9; i; i--, number /= 10) o[i] = (u8)('0' + number % 10);
    return o + 10;
}

static inline u8 *put_bytes(u8 *o, Text text) {
    memcpy(o, text.at, text.size);
    return o + text.size;
}

#endif
