/* Whether numbers in memory have changed: sums that any change of one word changes, and that the order of words goes into. */
#include <stdint.h>

#define LANES 64 /* words apart in one sum: enough independent sums to keep up with the memory */

/* Every step is one-to-one in the sum and in the word. The shift carries a flipped sign on: without it pairs of them cancel. */
static void add(uint32_t *sums, const uint32_t *words, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const uint32_t mixed = (sums[i] ^ words[i]) * 0x9E3779B1u;
        sums[i] = mixed ^ mixed >> 15;
    }
}

/* Sums of `count` blocks of memory, of so many words each: (count, LANES). */
void lede_checksums(const uint32_t *const *blocks, const int64_t *words, int32_t count, int32_t threads, uint32_t *out) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int32_t block = 0; block < count; block++) {
        uint32_t sums[LANES];
        for (int i = 0; i < LANES; i++) sums[i] = i;
        int64_t done = 0;
        for (; done + LANES <= words[block]; done += LANES) add(sums, blocks[block] + done, LANES);
        add(sums, blocks[block] + done, words[block] - done);
        for (int i = 0; i < LANES; i++) out[block * LANES + i] = sums[i];
    }
}
