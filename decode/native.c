/* The forward pass of decode/model.py for CPUs: a few rows through some layers, one call, no dispatch in between.
 *
 * Two properties matter more than peak speed:
 *   - A row's result does not depend on the rows beside it. Every output number is summed in one fixed order, whatever
 *     the number of rows, threads or tiles, so plain and speculative decoding see the same bits and choose the same tokens.
 *   - A pass over several rows reads the weights once. Weights are packed in blocks of 16 outputs, a block's inputs
 *     contiguous, so that one load serves all rows.
 *
 * Weights are bf16 (products in bf16 with fp32 sums, as AVX512-BF16 does them; elsewhere they are widened) or fp32. The
 * residual stream, norms, rotary embedding, attention and its cache are fp32. Compile without -ffast-math.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define LANES 16 /* outputs in a block of packed weights, positions in a block of keys */
#define TILE_ROWS 6
#define TILE_BLOCKS 4
#define ATTEND_ROWS 4
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint16_t hvec __attribute__((vector_size(32)));
typedef uint32_t uvec __attribute__((vector_size(64)));

typedef struct {
    const float *attention_norm, *mlp_norm; /* (hidden) */
    const void *qkv, *output, *gate, *up, *down; /* packed by lede_pack */
} Layer;

typedef struct {
    int32_t hidden, feed_forward, heads, key_heads, head_size, bf16, vocabulary, threads;
    float eps;
    const Layer *layers;
    const float *rotation; /* (context, head_size / 2, 2): cosine and sine */
    const float *norm;     /* (hidden) */
    const void *head;      /* packed, vocabulary rounded up to a block */
} Model;

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec splat(float s) { return s - (vec){0}; }

INLINE uint16_t to_bf16(float f) { /* to nearest, ties to even; finite numbers */
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* Sum of a vector's lanes, in one fixed order. */
INLINE float total(vec v) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
}

/* e^x for x <= 0; zero below -87. Relative error under 2e-7. */
INLINE vec expv(vec x) {
    ivec dead = x < splat(-87.0f);
    x = (vec)(((ivec)x & ~dead) | ((ivec)splat(-87.0f) & dead));
    ivec n = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec); /* truncates towards zero: nearest for x <= 0 */
    vec f = __builtin_convertvector(n, vec);
    vec r = x - f * 0.693359375f + f * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec scaled = ((ivec)p) + (n << 23);
    return (vec)(scaled & ~dead);
}

/* ---- products ------------------------------------------------------------------------------------------------- */

/* Bytes of a packed (out, in) weight. */
int64_t lede_packed_size(int64_t out, int64_t in, int32_t bf16) {
    return (out + LANES - 1) / LANES * LANES * in * (bf16 ? 2 : 4);
}

/* Pack w (out, in) in blocks of 16 outputs: [block][input][output], bf16 inputs in pairs where the CPU multiplies pairs. */
void lede_pack(const float *w, int64_t out, int64_t in, int32_t bf16, void *packed) {
    for (int64_t block = 0; block < (out + LANES - 1) / LANES; block++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t lane = 0; lane < LANES; lane++) {
                int64_t o = block * LANES + lane;
                float value = o < out ? w[o * in + i] : 0.0f;
#ifdef __AVX512BF16__
                int64_t at = bf16 ? ((block * in / 2 + i / 2) * LANES + lane) * 2 + i % 2 : (block * in + i) * LANES + lane;
#else
                int64_t at = (block * in + i) * LANES + lane;
#endif
                if (bf16) ((uint16_t *)packed)[at] = to_bf16(value);
                else ((float *)packed)[at] = value;
            }
}

/* y[r][b·16…] = Σ_i w[b][i]·x[r][i] for `rows` rows and `blocks` blocks, both constants where it is called: the loops
 * over them are unrolled whole, so that the sums stay in registers. */
#define EACH_ROW _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
#define EACH_BLOCK _Pragma("GCC unroll 8") for (int b = 0; b < blocks; b++)

INLINE void tile_fp32(const float *w, const float *x, float *y, int in, int ldy, int rows, int blocks) {
    vec sum[TILE_ROWS][TILE_BLOCKS];
    EACH_ROW EACH_BLOCK sum[r][b] = splat(0);
    for (int i = 0; i < in; i++) {
        vec weight[TILE_BLOCKS];
        EACH_BLOCK weight[b] = load(w + ((int64_t)b * in + i) * LANES);
        EACH_ROW {
            float value = x[(int64_t)r * in + i];
            EACH_BLOCK sum[r][b] += weight[b] * value;
        }
    }
    EACH_ROW EACH_BLOCK store(y + (int64_t)r * ldy + b * LANES, sum[r][b]);
}

#ifdef __AVX512BF16__
typedef uint16_t Input; /* activations are rounded to bf16, as the instruction takes them */
INLINE void tile_bf16(const uint16_t *w, const Input *x, float *y, int in, int ldy, int rows, int blocks) {
    __m512 sum[TILE_ROWS][TILE_BLOCKS];
    EACH_ROW EACH_BLOCK sum[r][b] = _mm512_setzero_ps();
    for (int i = 0; i < in / 2; i++) {
        __m512bh weight[TILE_BLOCKS];
        EACH_BLOCK weight[b] = (__m512bh)_mm512_loadu_si512(w + ((int64_t)b * in / 2 + i) * 2 * LANES);
        EACH_ROW {
            int32_t pair;
            memcpy(&pair, x + (int64_t)r * in + 2 * i, 4);
            __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            EACH_BLOCK sum[r][b] = _mm512_dpbf16_ps(sum[r][b], weight[b], value);
        }
    }
    EACH_ROW EACH_BLOCK _mm512_storeu_ps(y + (int64_t)r * ldy + b * LANES, sum[r][b]);
}
#else
typedef float Input;
INLINE void tile_bf16(const uint16_t *w, const Input *x, float *y, int in, int ldy, int rows, int blocks) {
    vec sum[TILE_ROWS][TILE_BLOCKS];
    EACH_ROW EACH_BLOCK sum[r][b] = splat(0);
    for (int i = 0; i < in; i++) {
        vec weight[TILE_BLOCKS];
        EACH_BLOCK {
            hvec half;
            memcpy(&half, w + ((int64_t)b * in + i) * LANES, sizeof half);
            weight[b] = (vec)(__builtin_convertvector(half, uvec) << 16);
        }
        EACH_ROW {
            float value = x[(int64_t)r * in + i];
            EACH_BLOCK sum[r][b] += weight[b] * value;
        }
    }
    EACH_ROW EACH_BLOCK store(y + (int64_t)r * ldy + b * LANES, sum[r][b]);
}
#endif

#define ROWS_CASE(kind, n) case n: tile_##kind(w, x, y, in, ldy, n, blocks); break;
#define TILES(kind, W, X)                                                                                          \
    INLINE void rows_##kind(const W *w, const X *x, float *y, int in, int ldy, int rows, int blocks) {              \
        switch (rows) {                                                                                            \
            ROWS_CASE(kind, 1) ROWS_CASE(kind, 2) ROWS_CASE(kind, 3)                                               \
            ROWS_CASE(kind, 4) ROWS_CASE(kind, 5) ROWS_CASE(kind, 6)                                               \
        }                                                                                                          \
    }                                                                                                              \
    static void span_##kind(const W *w, const X *x, float *y, int in, int ldy, int rows, int first, int last) {     \
        const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, height = (rows + tiles - 1) / tiles; /* even tiles */ \
        for (int block = first; block < last;) {                                                                   \
            const int blocks = last - block >= TILE_BLOCKS ? TILE_BLOCKS : 1;                                       \
            const W *weights = w + (int64_t)block * in * LANES;                                                     \
            for (int r = 0; r < rows; r += height) {                                                                \
                const int n = rows - r < height ? rows - r : height;                                                \
                const X *input = x + (int64_t)r * in;                                                               \
                float *output = y + (int64_t)r * ldy + block * LANES;                                               \
                if (blocks == TILE_BLOCKS) rows_##kind(weights, input, output, in, ldy, n, TILE_BLOCKS);            \
                else rows_##kind(weights, input, output, in, ldy, n, 1);                                            \
            }                                                                                                      \
            block += blocks;                                                                                        \
        }                                                                                                          \
    }
TILES(fp32, float, float)
TILES(bf16, uint16_t, Input)

/* One thread's share of y (rows, ldy) = x (rows, in) · wᵀ: blocks first…last. `x` is as `prepared` left it. */
static void product(const Model *m, const void *w, const void *x, float *y, int in, int ldy, int rows, int first, int last) {
    if (m->bf16) span_bf16(w, x, y, in, ldy, rows, first, last);
    else span_fp32(w, x, y, in, ldy, rows, first, last);
}

/* x as `product` takes it: rounded to bf16 into `buffer` where that is what is multiplied. */
static const void *prepared(const Model *m, const float *x, int64_t count, void *buffer) {
    if (!m->bf16 || sizeof(Input) == 4) return x;
    uint16_t *out = buffer;
    for (int64_t i = 0; i < count; i++) out[i] = to_bf16(x[i]);
    return out;
}

static void rms_norm(const float *x, const float *weight, float *y, int size, float eps) {
    vec squares = splat(0);
    for (int i = 0; i < size; i += LANES) { vec v = load(x + i); squares += v * v; }
    float scale = 1.0f / sqrtf(total(squares) / size + eps);
    for (int i = 0; i < size; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

/* ---- attention ------------------------------------------------------------------------------------------------ */

/* Rotate one head in place; coordinates i and i + size/2 are a pair. */
static void rotate(float *head, const float *rotation, int size) {
    for (int i = 0; i < size / 2; i++) {
        float c = rotation[2 * i], s = rotation[2 * i + 1], a = head[i], b = head[i + size / 2];
        head[i] = a * c - b * s;
        head[i + size / 2] = b * c + a * s;
    }
}

/* `rows` queries, one for each of the positions first…, over all positions up to their own. Keys and values are loaded once
 * for all of them. keys: [position / 16][coordinate][16], values: [position][coordinate]; scores: rows × padded length.
 * Positions behind a row's own weigh exactly nothing, so a row's bits are the same alone and among others. */
INLINE void attend(const float *query, int ldq, const float *keys, const float *values, float *out, int ldo, int first,
                   int rows, int size, float *scores) {
    const int blocks = (first + rows + LANES - 1) / LANES, padded = blocks * LANES;
    const float scale = 1.0f / sqrtf((float)size);
    for (int block = 0; block < blocks; block++) {
        const float *k = keys + (int64_t)block * size * LANES;
        vec sum[ATTEND_ROWS][4];
        EACH_ROW for (int j = 0; j < 4; j++) sum[r][j] = splat(0);
        for (int i = 0; i < size; i += 4)
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
                vec key = load(k + (i + j) * LANES);
                EACH_ROW sum[r][j] += key * query[(int64_t)r * ldq + i + j];
            }
        EACH_ROW store(scores + r * padded + block * LANES, ((sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3])) * scale);
    }
    float norm[ATTEND_ROWS];
    EACH_ROW {
        float *own = scores + r * padded;
        for (int t = first + r + 1; t < padded; t++) own[t] = -INFINITY;
        vec most = load(own), sum = splat(0);
        for (int block = 1; block < blocks; block++) {
            vec v = load(own + block * LANES);
            ivec larger = v > most;
            most = (vec)(((ivec)v & larger) | ((ivec)most & ~larger));
        }
        float highest = most[0];
        for (int i = 1; i < LANES; i++) highest = most[i] > highest ? most[i] : highest;
        for (int block = 0; block < blocks; block++) {
            vec e = expv(load(own + block * LANES) - highest);
            store(own + block * LANES, e);
            sum += e;
        }
        norm[r] = 1.0f / total(sum);
    }
    for (int i = 0; i < size; i += LANES) {
        vec sum[ATTEND_ROWS][4];
        EACH_ROW for (int j = 0; j < 4; j++) sum[r][j] = splat(0);
        for (int t = 0; t < padded; t += 4)
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
                vec value = load(values + (int64_t)(t + j) * size + i);
                EACH_ROW sum[r][j] += value * scores[r * padded + t + j];
            }
        EACH_ROW store(out + (int64_t)r * ldo + i, ((sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3])) * norm[r]);
    }
}

/* ---- the two entry points --------------------------------------------------------------------------------------- */

/* Scratch of one call: shared results, and a private area for each thread. */
typedef struct { float *qkv, *attention, *mlp; char *private; int64_t private_size; } Scratch;

INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t scratch_size(const Model *m, int rows, int length, Scratch *s, char *base) {
    int64_t width = (int64_t)(m->heads + 2 * m->key_heads) * m->head_size;
    int64_t inputs = at_least(at_least(m->hidden, m->feed_forward), (int64_t)m->heads * m->head_size);
    int64_t floats[3] = {rows * width, (int64_t)rows * m->heads * m->head_size, (int64_t)rows * m->feed_forward};
    int64_t private_floats = 2 * rows * inputs + 2 * (int64_t)rows * m->feed_forward + ATTEND_ROWS * (length + 2 * LANES);
    private_floats = (private_floats + 31) / 32 * 32;
    s->qkv = (float *)base;
    s->attention = s->qkv + floats[0];
    s->mlp = s->attention + floats[1];
    s->private = (char *)(s->mlp + floats[2]);
    s->private_size = private_floats * 4;
    return (floats[0] + floats[1] + floats[2]) * 4 + s->private_size * m->threads;
}

/* Bytes of scratch that a call with so many rows, reaching so many positions, needs. */
int64_t lede_scratch_size(const Model *m, int32_t rows, int32_t length) {
    Scratch s;
    return scratch_size(m, rows, length, &s, 0);
}

/* Layers lo+1…hi over x (rows, hidden), in place, at positions `position`…; keys and values go into `cache`.
 * cache: [layer][key | value][key head][capacity × head size], capacity a multiple of 16. */
void lede_run(const Model *m, int32_t lo, int32_t hi, float *x, int32_t rows, int32_t position, float *cache,
              int32_t capacity, void *scratch) {
    Scratch s;
    scratch_size(m, rows, position + rows, &s, scratch);
    const int size = m->head_size, groups = m->heads / m->key_heads, hidden = m->hidden, ff = m->feed_forward;
    const int width = (m->heads + 2 * m->key_heads) * size, attended = m->heads * size;
    const int64_t inputs = at_least(at_least(hidden, ff), attended), plane = (int64_t)capacity * size;
#pragma omp parallel num_threads(m->threads) if (m->threads > 1)
    {
#ifdef _OPENMP
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        const int thread = 0, threads = 1;
#endif
        float *normed = (float *)(s.private + s.private_size * thread);
        void *rounded = normed + rows * inputs;
        float *gate = (float *)rounded + rows * inputs, *up = gate + (int64_t)rows * ff, *scores = up;
#define SHARE(count) (int)((int64_t)(count) * thread / threads), (int)((int64_t)(count) * (thread + 1) / threads)
        for (int number = lo; number < hi; number++) {
            const Layer *layer = m->layers + number;
            float *keys = cache + (int64_t)number * 2 * m->key_heads * plane, *values = keys + m->key_heads * plane;

            for (int r = 0; r < rows; r++) rms_norm(x + (int64_t)r * hidden, layer->attention_norm, normed + (int64_t)r * hidden, hidden, m->eps);
            product(m, layer->qkv, prepared(m, normed, (int64_t)rows * hidden, rounded), s.qkv, hidden, width, rows, SHARE(width / LANES));
#pragma omp barrier
            scores = up + (int64_t)rows * ff; /* a key head's group of queries is one thread's work: no barrier within */
            int first_head = (int)((int64_t)m->key_heads * thread / threads), last_head = (int)((int64_t)m->key_heads * (thread + 1) / threads);
            for (int h = first_head; h < last_head; h++) {
                for (int r = 0; r < rows; r++) {
                    const int p = position + r;
                    float *key = s.qkv + (int64_t)r * width + (m->heads + h) * size;
                    rotate(key, m->rotation + (int64_t)p * size, size);
                    float *slot = keys + h * plane + (int64_t)(p / LANES) * size * LANES + p % LANES;
                    for (int i = 0; i < size; i++) slot[i * LANES] = key[i];
                    memcpy(values + h * plane + (int64_t)p * size, s.qkv + (int64_t)r * width + (m->heads + m->key_heads + h) * size, size * sizeof(float));
                }
                for (int q = h * groups; q < (h + 1) * groups; q++) {
                    for (int r = 0; r < rows; r++)
                        rotate(s.qkv + (int64_t)r * width + q * size, m->rotation + (int64_t)(position + r) * size, size);
                    for (int r = 0; r < rows; r += ATTEND_ROWS) {
                        const float *query = s.qkv + (int64_t)r * width + q * size, *k = keys + h * plane, *v = values + h * plane;
                        float *out = s.attention + (int64_t)r * attended + q * size;
                        switch (rows - r) {
                            case 1: attend(query, width, k, v, out, attended, position + r, 1, size, scores); break;
                            case 2: attend(query, width, k, v, out, attended, position + r, 2, size, scores); break;
                            case 3: attend(query, width, k, v, out, attended, position + r, 3, size, scores); break;
                            default: attend(query, width, k, v, out, attended, position + r, 4, size, scores);
                        }
                    }
                }
            }
#pragma omp barrier
            {
                int first = (int)((int64_t)(hidden / LANES) * thread / threads), last = (int)((int64_t)(hidden / LANES) * (thread + 1) / threads);
                product(m, layer->output, prepared(m, s.attention, (int64_t)rows * attended, rounded), normed, attended, hidden, rows, first, last);
                for (int r = 0; r < rows; r++)
                    for (int i = first * LANES; i < last * LANES; i++) x[(int64_t)r * hidden + i] += normed[(int64_t)r * hidden + i];
            }
#pragma omp barrier
            {
                int first = (int)((int64_t)(ff / LANES) * thread / threads), last = (int)((int64_t)(ff / LANES) * (thread + 1) / threads);
                for (int r = 0; r < rows; r++) rms_norm(x + (int64_t)r * hidden, layer->mlp_norm, normed + (int64_t)r * hidden, hidden, m->eps);
                const void *input = prepared(m, normed, (int64_t)rows * hidden, rounded);
                product(m, layer->gate, input, gate, hidden, ff, rows, first, last);
                product(m, layer->up, input, up, hidden, ff, rows, first, last);
                for (int r = 0; r < rows; r++)
                    for (int i = first * LANES; i < last * LANES; i += LANES) {
                        vec g = load(gate + (int64_t)r * ff + i), u = load(up + (int64_t)r * ff + i);
                        vec a = (vec)((ivec)g | (ivec)splat(-0.0f)), e = expv(a); /* e^-|g| */
                        vec share = g / (1.0f + e);
                        ivec below = g < splat(0);
                        store(s.mlp + (int64_t)r * ff + i, (vec)(((ivec)(share * e) & below) | ((ivec)share & ~below)) * u);
                    }
            }
#pragma omp barrier
            {
                int first = (int)((int64_t)(hidden / LANES) * thread / threads), last = (int)((int64_t)(hidden / LANES) * (thread + 1) / threads);
                product(m, layer->down, prepared(m, s.mlp, (int64_t)rows * ff, rounded), normed, ff, hidden, rows, first, last);
                for (int r = 0; r < rows; r++)
                    for (int i = first * LANES; i < last * LANES; i++) x[(int64_t)r * hidden + i] += normed[(int64_t)r * hidden + i];
            }
#pragma omp barrier
        }
    }
}

/* Final norm and head: logits (rows, ld), ld being the vocabulary rounded up to a block. */
void lede_head(const Model *m, const float *x, int32_t rows, float *logits, int32_t ld, void *scratch) {
    float *normed = scratch;
    void *rounded = normed + (int64_t)rows * m->hidden;
    for (int r = 0; r < rows; r++) rms_norm(x + (int64_t)r * m->hidden, m->norm, normed + (int64_t)r * m->hidden, m->hidden, m->eps);
    const void *input = prepared(m, normed, (int64_t)rows * m->hidden, rounded);
#pragma omp parallel num_threads(m->threads) if (m->threads > 1)
    {
#ifdef _OPENMP
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        const int thread = 0, threads = 1;
#endif
        product(m, m->head, input, logits, m->hidden, ld, rows, SHARE(ld / LANES));
    }
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
            int any = 0; /* almost always none of 16 is among the best so far */
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
