/* Prompt lookup on a text of token ids: a search through all of it, which takes about as long as following an index would,
 * and has nothing to keep up to date. */
#include <stdint.h>

#define CHUNK 16

/* How far the texts that end before `a` and before `b`, a < b, are the same: `most` tokens at most. */
static int32_t same(const int32_t *tokens, int32_t a, int32_t b, int32_t known, int32_t most) {
    if (most > a) most = a;
    while (known < most && tokens[a - known - 1] == tokens[b - known - 1]) known++;
    return known;
}

/* The first place from `place` on that is behind an earlier occurrence of the last token; `end` where there is none. */
static int32_t next_place(const int32_t *tokens, int32_t end, int32_t place) {
    const int32_t last = tokens[end - 1];
    for (int any = 0; place + CHUNK <= end; place += CHUNK) { /* most chunks have none: a few vectors tell */
        for (int i = 0; i < CHUNK; i++) any |= tokens[place - 1 + i] == last;
        if (any) break;
    }
    while (place < end && tokens[place - 1] != last) place++;
    return place;
}

/* What followed the last earlier occurrence of the longest n-gram, up to `longest`, that ends the text: found = its token,
 * how far the match goes back (up to `farthest`), how often the n-gram occurred, and how often before that token. Returns
 * whether there is one. */
static int guess(const int32_t *tokens, int32_t end, int32_t longest, int32_t farthest, int32_t *found) {
    if (end < 2) return 0;
    int32_t length = 0, best = 0, times = 0, agreed = 0;
    for (int32_t place = next_place(tokens, end, 1); place < end; place = next_place(tokens, end, place + 1)) {
        const int32_t n = same(tokens, place, end, 1, longest);
        if (n >= length) length = n, best = place;
    }
    if (!length) return 0;
    for (int32_t place = next_place(tokens, end, 1); place < end; place = next_place(tokens, end, place + 1)) {
        if (same(tokens, place, end, 1, length) < length) continue;
        times++;
        agreed += tokens[place] == tokens[best];
    }
    found[0] = tokens[best];
    found[1] = length < longest ? length : same(tokens, best, end, length, farthest);
    found[2] = times;
    found[3] = agreed;
    return 1;
}

/* Guess, go on as if the guess had been written, and so on, up to `most` times; tokens has room for them behind `end`.
 * found: (most, 4). Returns how many there are. */
int32_t lede_copy(int32_t *tokens, int32_t end, int32_t most, int32_t longest, int32_t farthest, int32_t *found) {
    for (int32_t k = 0; k < most; k++, found += 4) {
        if (!guess(tokens, end + k, longest, farthest, found)) return k;
        tokens[end + k] = found[0];
    }
    return most;
}
