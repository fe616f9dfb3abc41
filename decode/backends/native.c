/* The forward pass of decode/model.py for CPUs: a few rows through some layers, one call, no dispatch in between.
 *
 * Two properties matter more than peak speed:
 *   - A row's result does not depend on the rows beside it. Every output number is summed in one fixed order, whatever
 *     the number of rows, threads or tiles, so plain and speculative decoding see the same bits and choose the same tokens.
 *   - A pass over several rows reads the weights once. They are packed in blocks of 32 outputs, a block's inputs
 *     contiguous, so that one load serves all rows. Keys and values lie in the cache in the same way: attention is two
 *     more products.
 *
 * Weights are bf16 (activations are rounded to it where they are multiplied, sums are fp32) or fp32. The residual stream,
 * norms, rotary embedding, attention and its cache are fp32. Compile without -ffast-math.
 */
#define _GNU_SOURCE /* syscall */
#include <string.h>

#include "vectors.h"

#ifdef _OPENMP
#include <omp.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define sleep_while(at, value) syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0)
#define wake(at) syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0)
#else
#include <sched.h>
#define sleep_while(at, value) sched_yield()
#define wake(at)
#endif
#endif

/* Intel's matrix unit (AMX) multiplies 16 rows in the time of one, so that a verification takes little more than reading the
 * weights. It sums in an order of its own, so single rows go through it too. Where the system does not let this process use
 * it, pairs are multiplied, which takes its activations as they are. */
#ifndef TILES
#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILES 1
#else
#define TILES 0
#endif
#endif

/* AMD's cores (SSE4A: AMD alone has it) multiply pairs of bf16 at twice the rate of single fp32 numbers, Intel's at half of
 * it. There they are widened instead, and the same sums taken in the same order: the bits are those of the instruction. */
#ifndef PAIRS
#if TILES || (defined(__AVX512BF16__) && defined(__SSE4A__))
#define PAIRS 1
#else
#define PAIRS 0
#endif
#endif
#if PAIRS
#include <immintrin.h>
#endif
#if TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define BLOCK 32 /* outputs in a block of packed weights, positions in a block of keys */
#define HALF (BLOCK / 2)
#ifdef __AVX512F__
#define UNIT BLOCK   /* outputs that a tile is at least wide */
#define TILE_ROWS 13 /* rows whose sums over one unit stay in 32 registers: a verification reads each weight once */
#define WIDE_ROWS 6  /* over two units; with many rows this is faster, as a load of an input serves more sums */
#define MOST_UNITS 2 /* of a single row */
#else
#define UNIT HALF /* 6 rows of two vectors of 8, two of weights and an input: 15 of 16 registers */
#define TILE_ROWS 6
#define WIDE_ROWS 2
#define MOST_UNITS 4
#endif
#define CHUNK_ROWS 96 /* rows that a thread takes through all layers together: they stay in the core's own cache */
#define APART_ROWS (TILES ? 32 : 4) /* so many rows for each thread, and threads take rows of their own: reading all weights */
#define LINE 16       /* numbers in a cache line */
#define PAD 16        /* floats between rows that would otherwise lie a power of two apart */

typedef struct {
    const float *attention_norm, *mlp_norm; /* (hidden) */
    const void *qkv, *output, *gate_up, *down; /* packed by lede_pack, their outputs in the order of native.py */
} Layer;

typedef struct {
    int32_t hidden, feed_forward, heads, key_heads, head_size, bf16, threads;
    float eps;
    const Layer *layers;
    const float *norm; /* (hidden) */
    const void *head;  /* packed, vocabulary rounded up to a block */
} Model;

/* ---- products ------------------------------------------------------------------------------------------------- */

INLINE uvec rounded(uvec u) { return u + 0x7fff + ((u >> 16) & 1); } /* the upper half is bf16: nearest, ties to even */

/* Write a vector of activations as `product` takes them: in bf16 models rounded to it, and packed where pairs are multiplied. */
INLINE void put(const Model *m, float *row, int i, vec v) {
    if (!m->bf16) { store(row + i, v); return; }
#if PAIRS
    hvec half = __builtin_convertvector(rounded((uvec)v) >> 16, hvec);
    memcpy((uint16_t *)row + i, &half, sizeof half);
#else
    store(row + i, (vec)(rounded((uvec)v) & 0xffff0000));
#endif
}

/* Bytes of a packed (out, in) weight. */
int64_t lede_packed_size(int64_t out, int64_t in, int32_t bf16) {
    return (out + BLOCK - 1) / BLOCK * BLOCK * in * (bf16 ? 2 : 4);
}

/* Pack w (out, in): [block of 32 outputs][input][output], of bf16 [block][pair of inputs][output][input of the pair]. */
void lede_pack(const float *w, int64_t out, int64_t in, int32_t bf16, void *packed) {
    for (int64_t block = 0; block * BLOCK < out; block++)
        for (int64_t lane = 0; lane < BLOCK; lane++)
            for (int64_t i = 0; i < in; i++) {
                int64_t o = block * BLOCK + lane;
                vec value = splat(o < out ? w[o * in + i] : 0.0f);
                if (bf16) ((uint16_t *)packed)[((block * in + i) / 2 * BLOCK + lane) * 2 + i % 2] = rounded((uvec)value)[0] >> 16;
                else ((float *)packed)[(block * in + i) * BLOCK + lane] = value[0];
            }
}

/* y[r][b·32…] = Σ_i w[b][i]·x[r][i] for some rows r and blocks b. */
typedef struct {
    const char *w;
    int64_t stride; /* bytes from a block of w to the next */
    const float *x;
    float *y;
    int ldx, ldy, in; /* floats from a row to the next; inputs */
    const void *next; /* what this thread will read when it is done */
} Product;

/* Where the weights of the unit's outputs begin: those of units in one block lie side by side. */
INLINE const char *unit_of(const Product *p, int64_t unit) {
    return p->w + unit * UNIT / BLOCK * p->stride + unit * UNIT % BLOCK / LANES * (int64_t)sizeof(vec);
}

/* One tile of `rows` rows and `vectors` vectors, whole units of them from `unit` on. Both numbers are constants where it is
 * called: the loops over them are unrolled whole, so that the sums stay in registers. `soon` is what will be read next, and
 * fetched meanwhile: the streams are too short for the CPU to foresee. A single row has nothing to compute meanwhile. */
#define VECTORS (BLOCK / LANES) /* in a block */
#define EACH_ROW _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
#define EACH_VECTOR _Pragma("GCC unroll 16") for (int v = 0; v < vectors; v++)
#define OFFSET(v) ((v) / VECTORS * stride + (i * VECTORS + (v) % VECTORS) * (int64_t)sizeof(vec))
#define FETCH(v) if (rows > 1 && v * sizeof(vec) % 64 == 0) __builtin_prefetch(soon + OFFSET(v), 0, 2) /* a line */
#define TILE_START                                                                      \
    const char *w = unit_of(p, unit);                                                   \
    const int64_t stride = p->stride, in = p->in;                                       \
    const float *x[TILE_ROWS];                                                          \
    vec sum[TILE_ROWS][2 * VECTORS];                                                    \
    EACH_ROW x[r] = p->x + (int64_t)(row + r) * p->ldx;                                 \
    EACH_ROW EACH_VECTOR sum[r][v] = splat(0);
#define TILE_END EACH_ROW EACH_VECTOR store(p->y + (int64_t)(row + r) * p->ldy + unit * UNIT + v * LANES, sum[r][v]);

INLINE void tile_fp32(const Product *p, const char *soon, int row, int64_t unit, int rows, int vectors) {
    TILE_START
    _Pragma("GCC unroll 4") for (int64_t i = 0; i < in; i++) {
        vec weight[2 * VECTORS];
        EACH_VECTOR {
            weight[v] = load((const float *)(w + OFFSET(v)));
            FETCH(v);
        }
        EACH_ROW {
            float value = x[r][i];
            EACH_VECTOR sum[r][v] += weight[v] * value;
        }
    }
    TILE_END
}

INLINE void tile_bf16(const Product *p, const char *soon, int row, int64_t unit, int rows, int vectors) {
    TILE_START
    _Pragma("GCC unroll 2") for (int64_t i = 0; i < in / 2; i++) {
        uvec weight[2 * VECTORS];
        EACH_VECTOR FETCH(v);
#if PAIRS
        EACH_VECTOR memcpy(&weight[v], w + OFFSET(v), sizeof(uvec));
        EACH_ROW {
            int32_t pair;
            memcpy(&pair, x[r] + i, 4);
            __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            EACH_VECTOR sum[r][v] = (vec)_mm512_dpbf16_ps((__m512)sum[r][v], (__m512bh)weight[v], value);
        }
#else
        for (int half = 1; half >= 0; half--) { /* the pair's second product first, as the instruction does */
            EACH_VECTOR {
                memcpy(&weight[v], w + OFFSET(v), sizeof(uvec));
                weight[v] = half ? weight[v] & 0xffff0000 : weight[v] << 16;
            }
            EACH_ROW {
                const vec value = splat(x[r][2 * i + half]);
#if defined(__FMA__) && LANES == 8 /* left to the compiler, sums trade places with inputs, and 16 registers do not suffice */
                EACH_VECTOR __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum[r][v]) : "x"(value), "x"(weight[v]));
#else
                EACH_VECTOR sum[r][v] += (vec)weight[v] * value;
#endif
            }
            __asm__("" : "+r"(w)); /* load again: what is kept for later spills the sums */
        }
#endif
    }
    TILE_END
}

#define CASE(kind, n, units) case 8 * n + units: tile_##kind(p, soon, row, unit, n, units * UNIT / LANES); break;
#define CASES_6(kind, units)                                                                                        \
    CASE(kind, 1, units) CASE(kind, 2, units) CASE(kind, 3, units) CASE(kind, 4, units) CASE(kind, 5, units)        \
    CASE(kind, 6, units)
#ifdef __AVX512F__
#define CASES(kind)                                                                                                 \
    CASES_6(kind, 1) CASES_6(kind, 2) CASE(kind, 7, 1) CASE(kind, 8, 1) CASE(kind, 9, 1) CASE(kind, 10, 1)          \
    CASE(kind, 11, 1) CASE(kind, 12, 1) CASE(kind, 13, 1)
#else
#define CASES(kind) CASES_6(kind, 1) CASE(kind, 1, 2) CASE(kind, 2, 2) CASE(kind, 1, 4)
#endif
#define PRODUCT(kind)                                                                                               \
    static void product_##kind(const Product *p, int rows, int first, int last) {                                   \
        const int most = LANES == 16 && rows > 2 * TILE_ROWS ? WIDE_ROWS : TILE_ROWS, end = last * (BLOCK / UNIT);  \
        const int height = ceiling(rows, ceiling(rows, most)); /* even tiles */                                     \
        const int width = height == 1 ? MOST_UNITS : 1 + (height <= WIDE_ROWS);                                     \
        for (int unit = first * (BLOCK / UNIT), units; unit < end; unit += units) {                                 \
            units = smaller(width, end - unit);                                                                     \
            const char *soon = unit + units < end ? unit_of(p, unit + units) : p->next;                             \
            for (int row = 0; row < rows; row += height, soon = unit_of(p, unit)) /* fetched once */                \
                switch (8 * smaller(height, rows - row) + units) { CASES(kind) }                                    \
        }                                                                                                           \
    }
PRODUCT(fp32)
PRODUCT(bf16)

#if TILES
/* Registers of the matrix unit, 16 lines of 64 bytes each: 0 and 1 are the sums of some rows over a block, a half each, 2 and 3
 * those of further rows; 4 and 5 the rows' next 32 inputs; 6 and 7 weights. A packed weight is read as it lies: a line of the
 * unit is 16 outputs of a pair of inputs. The unit waits for what it reads, so that is fetched before. */
#define TILE_LINES 16
#define STEP 32                   /* inputs */
#define PAIR_BYTES (BLOCK * 2 * 2) /* of a block, from a pair of inputs to the next */
#define STEP_BYTES (STEP / 2 * PAIR_BYTES)
#define AHEAD (2 * STEP_BYTES)

/* Whether the system lets this process use it; asked once. */
static int have_tiles(void) {
    static int known = -1;
    if (known < 0) known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
    return known;
}

static void product_tiles(const Product *p, int rows, int first, int last) {
    const int height = ceiling(rows, ceiling(rows, TILE_LINES)); /* even tiles; the last may take some rows again */
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t lines[16]; } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.lines[t] = t < 6 ? height : TILE_LINES;
    _tile_loadconfig(&shape);
    const int64_t ldx = p->ldx * 4ll, ldy = p->ldy * 4ll;
    const char *end = p->w + last * p->stride;
    for (int block = first; block < last; block++)
        for (int tile = 0; tile < rows; tile += 2 * height) {
            const int more = tile + height < rows, row = smaller(tile, rows - height), row2 = smaller(tile + height, rows - height);
            const char *x = (const char *)(p->x + (int64_t)row * p->ldx), *x2 = (const char *)(p->x + (int64_t)row2 * p->ldx);
            float *y = p->y + (int64_t)row * p->ldy + block * BLOCK, *y2 = p->y + (int64_t)row2 * p->ldy + block * BLOCK;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            const char *w = p->w + block * p->stride;
            for (int i = 0; i < p->in; i += STEP, w += STEP_BYTES, x += 2 * STEP, x2 += 2 * STEP) {
                if (tile == 0) {
                    const char *soon = w + AHEAD < end ? w + AHEAD : (const char *)p->next + (w + AHEAD - end);
                    for (int line = 0; line < STEP_BYTES; line += 64) __builtin_prefetch(soon + line, 0, 3);
                }
                _tile_loadd(4, x, ldx);
                _tile_loadd(6, w, PAIR_BYTES);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, w + PAIR_BYTES / 2, PAIR_BYTES);
                _tile_dpbf16ps(1, 4, 7);
                if (!more) continue;
                _tile_loadd(5, x2, ldx);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, y, ldy);
            _tile_stored(1, y + HALF, ldy);
            if (!more) continue;
            _tile_stored(2, y2, ldy);
            _tile_stored(3, y2 + HALF, ldy);
        }
    _tile_release();
}
#endif

/* ---- threads -------------------------------------------------------------------------------------------------- */

/* Threads that share a call. They wait for each other every few microseconds, so one that waits spins; but not for long,
 * since who is waited for may have lost its core to another process, or be waiting for this one's. */
typedef struct {
    int32_t arrived, meeting, asleep;
    int64_t began, lost; /* nanoseconds: when the call began; how long its first thread slept */
} Team;

#ifdef _OPENMP
#define SPINS 5000 /* about 0.2 ms */
#define FEW_SPINS 100 /* where there are more threads than cores */

/* Beside other processes a team of as many threads as cores may take many times as long as a single thread, as some member
 * is always off its core. So after a call whose first thread slept, the next ones are its alone: for twice the time that it
 * lost, and for twice as long as before where the team lost time again as soon as it was back. The bits are the same. */
#define LEAST_REST 1000000 /* nanoseconds */
#define MOST_REST 250000000 /* a trial of the team costs a time slice or two, a few per cent of this */
static __thread int64_t rest, resting_until;

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/* How many of the `threads` that a call may have it shall have. */
static int call_up(Team *team, int threads) {
    if (threads == 1) return 1;
    team->began = nanoseconds();
    return team->began < resting_until ? 1 : threads;
}

/* A call that had so many threads is done. */
static void dismiss(const Team *team, int threads) {
    if (threads == 1) return;
    const int64_t now = nanoseconds();
    if (team->lost) {
        rest = 2 * (team->lost > rest ? team->lost : rest);
        rest = rest < LEAST_REST ? LEAST_REST : rest > MOST_REST ? MOST_REST : rest;
        resting_until = now + rest;
    } else {
        rest -= now - team->began; /* what the team did undisturbed */
        if (rest < 0) rest = 0;
    }
}

static void announce(Team *team, int32_t *counter, int32_t value) {
    __atomic_store_n(counter, value, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team->asleep, __ATOMIC_SEQ_CST)) wake(counter);
}

static void await(Team *team, int32_t *counter, int32_t value, int threads) {
    int32_t seen;
    for (int spins = 0; (seen = __atomic_load_n(counter, __ATOMIC_ACQUIRE)) < value; spins++) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
        if (spins == FEW_SPINS ? threads <= omp_get_num_procs() : spins < SPINS) continue;
        const int64_t before = nanoseconds();
        __atomic_add_fetch(&team->asleep, 1, __ATOMIC_SEQ_CST);
        sleep_while(counter, seen);
        __atomic_sub_fetch(&team->asleep, 1, __ATOMIC_SEQ_CST);
        if (omp_get_thread_num() == 0) team->lost += nanoseconds() - before;
    }
}

static void meet(Team *team, int threads) {
    if (threads == 1) return;
    const int32_t meeting = __atomic_load_n(&team->meeting, __ATOMIC_RELAXED) + 1;
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) < threads) {
        await(team, &team->meeting, meeting, threads);
        return;
    }
    team->arrived = 0;
    announce(team, &team->meeting, meeting);
}
#define THREAD omp_get_thread_num()
#define THREADS omp_get_num_threads()
#else
static void announce(Team *team, int32_t *counter, int32_t value) { (void)team, (void)counter, (void)value; }
static void await(Team *team, int32_t *counter, int32_t value, int threads) {
    (void)team, (void)counter, (void)value, (void)threads;
}
static void meet(Team *team, int threads) { (void)team, (void)threads; }
static int call_up(Team *team, int threads) { (void)team, (void)threads; return 1; }
static void dismiss(const Team *team, int threads) { (void)team, (void)threads; }
#define THREAD 0
#define THREADS 1
#endif

/* ---- a layer -------------------------------------------------------------------------------------------------- */

/* One call's work, as one thread sees it: a share of the products of some rows; or, where there are many, all products of
 * rows of its own (`threads` is 1 then), which takes one meeting a layer instead of six. Row pitches are in floats. */
typedef struct {
    const Model *m;
    Team *team;
    int thread, threads;                    /* of those that share these rows */
    int member, members, turn;              /* of the team; parts of its own that this thread has finished */
    int32_t *projected;                     /* by member, a cache line apart: layers whose keys and values are there */
    int layers;                             /* of this call */
    int rows, position;
    int length, capacity;                   /* positions up to the call's last row; positions that the cache has room for */
    const float *rotation;                  /* (length, cosine | sine, head size / 2) */
    float *x;                               /* (rows, hidden) */
    float *keys, *values;                   /* this layer's: [key head][capacity × head size] */
    float *query, *attended, *mlp, *scores; /* of all threads that share */
    float *normed, *products, *weights;     /* this thread's own */
    int query_pitch, mlp_pitch, score_pitch, normed_pitch, product_pitch; /* weights have the scores', attended the queries' */
} Work;

/* Where part number `part` of `parts` even ones of `count` begins. */
INLINE int span(int count, int part, int parts) { return (int)((int64_t)count * part / parts); }

/* This thread's share of `count` units of work: first…last. */
typedef struct { int first, last; } Share;
INLINE Share share(const Work *k, int count) {
    return (Share){span(count, k->thread, k->threads), span(count, k->thread + 1, k->threads)};
}

/* Where this thread's share of a weight (out, in) begins. */
static const char *share_of(const Work *k, const void *w, int out, int in) {
    return (const char *)w + share(k, out / BLOCK).first * lede_packed_size(BLOCK, in, k->m->bf16);
}

/* Query head h's keys or values, given those of head 0. */
INLINE const char *cached(const Work *k, const float *first, int h) {
    return (const char *)(first + h / (k->m->heads / k->m->key_heads) * (int64_t)k->capacity * k->m->head_size);
}

/* products = x · wᵀ over a share of w's blocks; x as `put` wrote it. */
static void product(const Work *k, const void *w, const float *x, int pitch, int in, Share s, const void *next) {
    const Product p = {w, lede_packed_size(BLOCK, in, k->m->bf16), x, k->products, pitch, k->product_pitch, in, next};
#if TILES
    if (k->m->bf16 && have_tiles()) product_tiles(&p, k->rows, s.first, s.last);
    else
#endif
    if (k->m->bf16) product_bf16(&p, k->rows, s.first, s.last);
    else product_fp32(&p, k->rows, s.first, s.last);
}

/* Every thread norms all rows for itself: that takes less time than another meeting. */
static void rms_norm(const Model *m, const float *x, const float *weight, float *y, int rows, int pitch) {
    const int size = m->hidden;
    for (int r = 0; r < rows; r++, x += size, y += pitch) {
        vec squares = splat(0);
        for (int i = 0; i < size; i += LANES) { vec v = load(x + i); squares += v * v; }
        const float scale = 1.0f / sqrtf(total(squares) / size + m->eps);
        for (int i = 0; i < size; i += LANES) put(m, y, i, load(x + i) * scale * load(weight + i));
    }
}

/* Rotate 16 coordinates of a head and their partners half a head on, which native.py packs into one block. `turn`: the cosines
 * of the 16 at this position; `half_size` on, their sines. */
INLINE void rotate(const float *turn, int half_size, const float *from, float scale, float *to) {
    for (int i = 0; i < HALF; i += LANES) {
        const vec c = load(turn + i), s = load(turn + half_size + i), a = load(from + i), b = load(from + HALF + i);
        store(to + i, (a * c - b * s) * scale);
        store(to + HALF + i, (b * c + a * s) * scale);
    }
}

/* Write the rows' keys in that block of the products to the cache, a coordinate at a time: its positions share cache lines,
 * which another thread may be writing to. `to`: this head's first block of positions, at the block's first coordinate. */
static void store_keys(const Work *k, int block, float *to) {
    for (int i = 0; i < BLOCK; i++)
        for (int r = 0; r < k->rows; r++) {
            const int position = k->position + r;
            to[((int64_t)position / BLOCK * k->m->head_size + i) * BLOCK + position % BLOCK] =
                k->products[(int64_t)r * k->product_pitch + block * BLOCK + i];
        }
}

/* Queries, and keys and values into the cache; or the latter alone. Keys lie as [block of positions][coordinate][position],
 * values as [block of coordinates][position][coordinate]. */
static void project(const Work *k, const Layer *layer, int keys_only) {
    const Model *m = k->m;
    const int size = m->head_size, parts = size / BLOCK, skipped = keys_only ? m->heads * parts : 0;
    const int64_t plane = (int64_t)k->capacity * size;
    Share s = share(k, (m->heads + 2 * m->key_heads) * parts - skipped);
    s.first += skipped, s.last += skipped;
    rms_norm(m, k->x, layer->attention_norm, k->normed, k->rows, k->normed_pitch);
    product(k, layer->qkv, k->normed, k->normed_pitch, m->hidden, s, k->keys);
    for (int block = s.first; block < s.last; block++) {
        const int part = block % parts, head = block / parts, key_head = head - m->heads, value_head = key_head - m->key_heads;
        for (int r = 0; r < k->rows; r++) {
            float *from = k->products + (int64_t)r * k->product_pitch + block * BLOCK;
            const int position = k->position + r;
            const float *turn = k->rotation + (int64_t)position * size + part * HALF;
            if (value_head >= 0) {
                float *to = k->values + value_head * plane + ((int64_t)part * k->capacity + position) * BLOCK;
                memcpy(to, from, BLOCK * sizeof(float));
            } else if (key_head >= 0) {
                rotate(turn, size / 2, from, 1.0f, from);
            } else {
                float *to = k->query + (int64_t)r * k->query_pitch + block * BLOCK;
                rotate(turn, size / 2, from, 1.0f / sqrtf((float)size), to);
            }
        }
        if (key_head >= 0 && value_head < 0) store_keys(k, block, k->keys + key_head * plane + part * BLOCK * BLOCK);
    }
}

/* Scores of all queries with all keys up to the last row's: shared by heads and blocks of positions. */
static void score(const Work *k) {
    const Model *m = k->m;
    const int size = m->head_size, blocks = ceiling(k->position + k->rows, BLOCK);
    const Share s = share(k, m->heads * blocks);
    for (int h = s.first / blocks; h * blocks < s.last; h++) {
        const int more = (h + 1) * blocks < s.last;
        const Product p = {
            cached(k, k->keys, h), (int64_t)size * BLOCK * 4, k->query + h * size,
            k->scores + (int64_t)h * k->rows * k->score_pitch, k->query_pitch, k->score_pitch, size,
            cached(k, more ? k->keys : k->values, h + more),
        };
        product_fp32(&p, k->rows, larger(s.first - h * blocks, 0), smaller(s.last - h * blocks, blocks));
    }
}

/* y = e^(x - highest) over the first `own` scores, zero up to `length`; returns one over their sum. Positions behind a row's
 * own weigh exactly nothing, so a row's bits are the same alone and among others. */
static float softmax(const float *x, float *y, int own, int length) {
    ivec lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    const int whole = own / LANES * LANES;
    const vec tail = choose(lanes < own - whole, load(x + whole), splat(-INFINITY));
    vec most = tail, sum = splat(0);
    for (int i = 0; i < whole; i += LANES) { vec v = load(x + i); most = choose(v > most, v, most); }
    float highest = most[0];
    for (int i = 1; i < LANES; i++) highest = most[i] > highest ? most[i] : highest;
    for (int i = 0; i < whole; i += LANES) { vec e = expv(load(x + i) - highest); store(y + i, e); sum += e; }
    const vec e = expv(tail - highest);
    store(y + whole, e);
    for (int i = whole + LANES; i < length; i += LANES) store(y + i, splat(0));
    return 1.0f / total(sum + e);
}

/* Values weighted by the softmax of the scores: shared by heads and blocks of coordinates. */
static void mix(const Work *k, const Layer *layer) {
    const Model *m = k->m;
    const int size = m->head_size, parts = size / BLOCK, length = k->position + k->rows;
    const Share s = share(k, m->heads * parts);
    for (int h = s.first / parts; h * parts < s.last; h++) {
        float norm[CHUNK_ROWS];
        for (int r = 0; r < k->rows; r++)
            norm[r] = softmax(k->scores + ((int64_t)h * k->rows + r) * k->score_pitch, k->weights + (int64_t)r * k->score_pitch,
                              k->position + r + 1, length);
        const int first = larger(s.first, h * parts), last = smaller(s.last, (h + 1) * parts);
        const Product p = {
            cached(k, k->values, h), (int64_t)k->capacity * BLOCK * 4, k->weights, k->products + h * size,
            k->score_pitch, k->product_pitch, length,
            last < s.last ? cached(k, k->values, h + 1) : share_of(k, layer->output, m->hidden, m->heads * size),
        };
        product_fp32(&p, k->rows, first - h * parts, last - h * parts);
        for (int r = 0; r < k->rows; r++)
            for (int i = first * BLOCK; i < last * BLOCK; i += LANES) {
                const vec mixed = load(k->products + (int64_t)r * k->product_pitch + i) * norm[r];
                put(m, k->attended + (int64_t)r * k->query_pitch, i, mixed);
            }
    }
}

/* x += input · wᵀ */
static void add_product(const Work *k, const void *w, const float *input, int pitch, int in, const void *next) {
    const int hidden = k->m->hidden;
    const Share s = share(k, hidden / BLOCK);
    product(k, w, input, pitch, in, s, next);
    for (int r = 0; r < k->rows; r++)
        for (int i = s.first * BLOCK; i < s.last * BLOCK; i += LANES) {
            float *x = k->x + (int64_t)r * hidden + i;
            store(x, load(x) + load(k->products + (int64_t)r * k->product_pitch + i));
        }
}

/* silu(gate) · up; a block holds 16 outputs of the gate and the same 16 of `up`. */
static void feed(const Work *k, const Layer *layer) {
    const Model *m = k->m;
    const Share s = share(k, m->feed_forward / HALF);
    rms_norm(m, k->x, layer->mlp_norm, k->normed, k->rows, k->normed_pitch);
    product(k, layer->gate_up, k->normed, k->normed_pitch, m->hidden, s, share_of(k, layer->down, m->hidden, m->feed_forward));
    for (int r = 0; r < k->rows; r++)
        for (int i = s.first * HALF; i < s.last * HALF; i += LANES) {
            const float *from = k->products + (int64_t)r * k->product_pitch + i / HALF * BLOCK + i % HALF;
            const vec gate = load(from), e = expv((vec)((ivec)gate | (ivec)splat(-0.0f))); /* e^-|gate| */
            const vec most = gate / (1.0f + e);
            put(m, k->mlp + (int64_t)r * k->mlp_pitch, i, choose(gate < splat(0), most * e, most) * load(from + HALF));
        }
}

/* Where threads have rows of their own: say that these rows' keys and values of a layer are there, and wait for those of the
 * rows before them. Parts of the rows are dealt in turn, so a later thread's are behind this one's in the same turn. */
static void follow(const Work *k, int number) {
    const int layers = k->layers;
    announce(k->team, k->projected + k->member * LINE, k->turn * layers + number + 1);
    for (int other = 0; other < k->members; other++)
        if (other != k->member)
            await(k->team, k->projected + other * LINE, (k->turn - (other > k->member)) * layers + number + 1, k->members);
}

/* Layer `number` of this call's. `next`: the weight that this thread will read after it. */
static void run_layer(const Work *k, int number, const Layer *layer, const void *next) {
    const int attended = k->m->heads * k->m->head_size, hidden = k->m->hidden, inner = k->m->feed_forward;
    project(k, layer, 0);
    if (k->threads == k->members) meet(k->team, k->threads);
    else follow(k, number);
    score(k);
    meet(k->team, k->threads);
    mix(k, layer);
    meet(k->team, k->threads);
    add_product(k, layer->output, k->attended, k->query_pitch, attended, share_of(k, layer->gate_up, 2 * inner, hidden));
    meet(k->team, k->threads);
    feed(k, layer);
    meet(k->team, k->threads);
    add_product(k, layer->down, k->mlp, k->mlp_pitch, inner, next);
    meet(k->team, k->threads);
}

/* ---- the entry points ----------------------------------------------------------------------------------------- */

INLINE float *take(float **free, int64_t floats) { float *taken = *free; *free += floats; return taken; }

/* Lay out thread `number`'s buffers in `scratch`. Returns the bytes of all threads. */
static int64_t lay_out(Work *k, int number, char *scratch) {
    const Model *m = k->m;
    const int attended = m->heads * m->head_size, width = attended + 2 * m->key_heads * m->head_size;
    k->query_pitch = attended + PAD;
    k->mlp_pitch = m->feed_forward + PAD;
    k->score_pitch = ceiling(k->length, BLOCK) * BLOCK + PAD;
    k->normed_pitch = m->hidden + PAD;
    k->product_pitch = larger(larger(width, 2 * m->feed_forward), m->hidden) + PAD;
    const int64_t shared = CHUNK_ROWS * (2 * k->query_pitch + k->mlp_pitch + (int64_t)m->heads * k->score_pitch);
    const int64_t own = CHUNK_ROWS * ((int64_t)k->normed_pitch + k->product_pitch + k->score_pitch);
    if (scratch != NULL) {
        float *free = (float *)scratch + (k->threads > 1 ? 0 : shared * number);
        k->query = take(&free, CHUNK_ROWS * k->query_pitch);
        k->attended = take(&free, CHUNK_ROWS * k->query_pitch);
        k->mlp = take(&free, CHUNK_ROWS * k->mlp_pitch);
        k->scores = take(&free, (int64_t)CHUNK_ROWS * m->heads * k->score_pitch);
        free = (float *)scratch + shared * m->threads + own * number;
        k->normed = take(&free, CHUNK_ROWS * k->normed_pitch);
        k->products = take(&free, CHUNK_ROWS * k->product_pitch);
        k->weights = take(&free, CHUNK_ROWS * k->score_pitch);
    }
    return (shared + own) * m->threads * (int64_t)sizeof(float);
}

/* Bytes of scratch that a call needs whose last row is the last of `length` positions; lede_head needs those of length 0. */
int64_t lede_scratch_size(const Model *m, int32_t length) {
    Work k = {.m = m, .length = length};
    return lay_out(&k, 0, NULL);
}

/* Layers lo+1…hi over x (rows, hidden), in place, at positions `position`…; keys and values go into `cache`. `reading`: x is
 * not wanted afterwards, so of layer hi only keys and values are computed.
 * cache: [layer][key | value][key head][capacity × head size], capacity a multiple of 32. rotation: (position + rows or more,
 * cosine | sine, head size / 2). */
void lede_run(const Model *m, int32_t lo, int32_t hi, float *x, int32_t rows, int32_t position, float *cache, int32_t capacity,
              const float *rotation, int32_t reading, void *scratch) {
    Team team = {0};
    const int width = (m->heads + 2 * m->key_heads) * m->head_size;
    const int64_t planes = (int64_t)m->key_heads * capacity * m->head_size;
    int32_t projected[m->threads * LINE];
    memset(projected, 0, sizeof projected);
    const int threads = call_up(&team, m->threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int apart = rows >= APART_ROWS * THREADS, abreast = apart ? THREADS : 1;
        const int parts = ceiling(rows, CHUNK_ROWS * abreast) * abreast;
        Work k = {.m = m, .team = &team, .projected = projected, .member = THREAD, .members = THREADS, .thread = THREAD,
                  .threads = THREADS, .layers = hi - lo, .length = position + rows, .capacity = capacity, .rotation = rotation};
        if (apart) k.thread = 0, k.threads = 1;
        lay_out(&k, THREAD, scratch);
        for (int part = apart ? THREAD : 0; part < parts; part += abreast, k.turn++) {
            const int row = span(rows, part, parts);
            k.rows = span(rows, part + 1, parts) - row, k.position = position + row, k.x = x + (int64_t)row * m->hidden;
            for (int number = lo; number < hi; number++) {
                const Layer *layer = m->layers + number;
                k.keys = cache + 2 * number * planes, k.values = k.keys + planes;
                const void *next = number + 1 < hi ? share_of(&k, layer[1].qkv, width, m->hidden) : m->head;
                if (reading && number + 1 == hi) project(&k, layer, 1);
                else run_layer(&k, number - lo, layer, next);
            }
        }
        meet(&team, THREADS); /* OpenMP's own way of waiting for all is to spin, for long */
    }
    dismiss(&team, threads);
}

/* Final norm and head: logits (rows, ld), ld being the vocabulary rounded up to a block. */
void lede_head(const Model *m, const float *x, int32_t rows, float *logits, int32_t ld, void *scratch) {
    const int chunk = ceiling(rows, ceiling(rows, CHUNK_ROWS));
    Team team = {0};
    const int threads = call_up(&team, m->threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Work k = {.m = m, .thread = THREAD, .threads = THREADS};
        lay_out(&k, THREAD, scratch);
        k.product_pitch = ld;
        for (int row = 0; row < rows; row += chunk) {
            k.rows = smaller(chunk, rows - row), k.products = logits + (int64_t)row * ld;
            rms_norm(m, x + (int64_t)row * m->hidden, m->norm, k.normed, k.rows, k.normed_pitch);
            product(&k, m->head, k.normed, k.normed_pitch, m->hidden, share(&k, ld / BLOCK), m->head);
        }
        meet(&team, THREADS);
    }
    dismiss(&team, threads);
}

/* For each row of logits (rows, ld): most likely token, its log p, the second's, the sum of the k best logits less the
 * normaliser, and the entropy. out: (rows, 5) doubles. */
void lede_statistics(const float *logits, int32_t rows, int32_t vocabulary, int32_t ld, int32_t k, double *out) {
    for (int r = 0; r < rows; r++, logits += ld, out += 5) {
        float best[16] = {0};
        int token = 0;
        for (int j = 0; j < k; j++) best[j] = -INFINITY;
        for (int from = 0; from < vocabulary; from += LANES) {
            const int to = from + LANES < vocabulary ? from + LANES : vocabulary;
            int any = 0; /* almost always none of these is among the best so far */
            for (int i = from; i < to; i++) any |= logits[i] > best[k - 1];
            for (int i = from; any && i < to; i++) {
                float z = logits[i];
                if (z <= best[k - 1]) continue; /* a tie keeps the first token, as argmax does */
                if (z > best[0]) token = i;
                int j = k - 1;
                for (; j > 0 && best[j - 1] < z; j--) best[j] = best[j - 1];
                best[j] = z;
            }
        }
        vec sums = splat(0), products = splat(0); /* of e^(z - best), and of that times (z - best) */
        int i = 0;
        for (; i + LANES <= vocabulary; i += LANES) {
            vec z = load(logits + i) - best[0], e = expv(z);
            sums += e;
            products += e * z;
        }
        double sum = total(sums), weighted = total(products);
        for (; i < vocabulary; i++) {
            double z = logits[i] - best[0], e = exp(z);
            sum += e;
            weighted += e * z;
        }
        double normaliser = log(sum), top = 0; /* relative to best[0] */
        for (int j = 0; j < k; j++) top += best[j] - best[0] - normaliser;
        out[0] = token;
        out[1] = -normaliser;
        out[2] = best[1] - best[0] - normaliser;
        out[3] = -top / k;
        out[4] = normaliser - weighted / sum;
    }
}
