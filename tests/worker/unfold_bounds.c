/* Reads records (a byte, a 32-bit length and as many bytes) and says what _unfold.h says of them: N, U, or Y with what is
 * written. J is a text to unfold, T a time. Each lies in memory that ends where its reader must, for a sanitizer to see. */
#include <stdio.h>
#include <stdlib.h>
#include "_unfold.h"

#if defined(__SSE2__)
#define LOADED 15 /* behind the last byte that is looked at */
#else
#define LOADED 0
#endif

static Verdict unfold(u8 *text, u8 **end) {
    Below below[2] = {{{(const u8 *)"in", 2}, NULL, 0, 0}, {{(const u8 *)"other", 5}, NULL, 0, 0}};
    Path path = {{(const u8 *)"k", 1}, below, 2, 0};
    return unfold_text(text, end, &path);
}

int main(void) {
    int kind;
    u32 size;
    make_tables();
    while ((kind = getchar()) != EOF && fread(&size, 4, 1, stdin) == 1) {
        /* a text needs room for its NUL, and for one in it without its quotes and its NUL */
        u8 *text = malloc(kind == 'T' ? size : 2 * (size_t)size + 1 + LOADED), *end = text + size, time[32], *out = time;
        if (!text || fread(text, 1, size, stdin) != size) return 1;
        Verdict verdict = kind == 'T' ? put_time(&out, (Text){text, size}) : unfold(text, &end);
        size = verdict != YES ? 0 : (u32)(kind == 'T' ? out - time : end - text);
        putchar("NYU"[verdict]);
        fwrite(&size, 4, 1, stdout);
        fwrite(kind == 'T' ? time : text, 1, size, stdout);
        free(text);
    }
    return 0;
}
