/* Choosing tokens from rows of logits, in one call: penalties, temperature, top-k, top-p, min-p as in `transformers`, then
 * the token with the highest log p + Gumbel noise (decode/noise.py). A row's token depends on nothing but its logits, the
 * text before it, the seed and its position. Noise is made only for tokens that can win. */
#include <stdlib.h>

#include "vectors.h"

typedef struct {
    int32_t top_k;                 /* 0: all */
    int32_t suppressed;            /* how many */
    double temperature;            /* 0: the first most likely token */
    double top_p, min_p;           /* 1: all; 0: all */
    double penalty;                /* of tokens that the text has; 1: none */
    uint64_t seed;
    const int32_t *suppress;       /* (suppressed) ids of tokens that may not be */
} Settings;

/* The tokens that logits are of. */
typedef struct {
    const int32_t *ids;    /* (n) by place in a row; NULL: places are ids */
    const int32_t *places; /* (vocabulary) by id, -1: not among them */
    int32_t n;
} Tokens;

typedef struct { double token, logp, noise, margin; } Choice;

#define GAMMA 0x9E3779B97F4A7C15u

INLINE uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

INLINE uint64_t bits(uint64_t stream, int64_t token) { return mix(stream + (uint64_t)token * GAMMA) >> 11; }

INLINE double gumbel(uint64_t bits) { return -log(-log1p(-((double)bits + 0.5) * 0x1p-53)); }

INLINE uint64_t stream_of(uint64_t seed, int64_t position) { return mix(mix(seed) + (uint64_t)position * GAMMA); }

/* The `k`-th largest of x, which is put into another order. */
static float kth_largest(float *x, int n, int k) {
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        const float pivot = x[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) { float kept = x[i]; x[i++] = x[j], x[j--] = kept; }
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else break;
    }
    return x[k - 1];
}

/* What the k-th largest of z is: candidates are gathered above a bound that rises. `room` holds n floats. */
static float threshold_of(const float *z, int n, int k, float *room) {
    const int most = smaller(larger(4 * k, 64), n);
    float bound = -INFINITY;
    int kept = 0;
    for (int from = 0; from < n; from += LANES) {
        const int to = smaller(from + LANES, n);
        int any = 0;
        for (int i = from; i < to; i++) any |= z[i] > bound;
        for (int i = from; any && i < to; i++) {
            if (!(z[i] > bound) && kept >= k) continue;
            if (kept == most) {
                bound = kth_largest(room, kept, k);
                kept = k;
                if (!(z[i] > bound)) continue;
            }
            room[kept++] = z[i];
        }
    }
    return kth_largest(room, kept, k);
}

/* Places with z >= least, into `kept`; returns how many. */
static int places_above(const float *z, int n, float least, int32_t *kept) {
    int m = 0;
    for (int from = 0; from < n; from += LANES) {
        const int to = smaller(from + LANES, n);
        int any = 0;
        for (int i = from; i < to; i++) any |= z[i] >= least;
        for (int i = from; any && i < to; i++)
            if (z[i] >= least) kept[m++] = i;
    }
    return m;
}

/* Σ e^((z - best) / T) over all of a row; each is written to `weights` (n). */
static double weigh(const float *z, int n, float best, float cold, float *weights) {
    double sum = 0;
    vec sums = splat(0);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec e = expv((load(z + i) - best) * cold);
        store(weights + i, e);
        sums += e;
    }
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    for (; i < n; i++) sum += weights[i] = expf((z[i] - best) * cold);
    return sum;
}

static void sift(const double *weight, int32_t *heap, int at, int n) {
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && weight[heap[child + 1]] > weight[heap[child]]) child++;
        if (weight[heap[child]] <= weight[heap[at]]) return;
        const int32_t kept = heap[at];
        heap[at] = heap[child], heap[child] = kept;
    }
}

/* Of m kept places with these weights, those of the fewest that weigh `share` or more together; returns how many.
 * They are put first. `heap`, `order`: room for m. */
static int nucleus(int32_t *kept, double *weight, int m, double share, int32_t *heap, int32_t *order) {
    for (int j = 0; j < m; j++) heap[j] = j;
    for (int at = m / 2 - 1; at >= 0; at--) sift(weight, heap, at, m);
    double mass = 0;
    int taken = 0;
    for (int left = m; left > 0 && (taken == 0 || mass < share); taken++) {
        mass += weight[heap[0]];
        order[taken] = kept[heap[0]];
        heap[0] = heap[--left];
        sift(weight, heap, 0, left);
    }
    memcpy(kept, order, taken * sizeof *kept);
    return taken;
}

#define MOST_MARGIN 10.0 /* of a token without a rival */
#define NAN_TOKEN -1
#define NO_TOKEN -2

/* The two highest log p + noise so far. */
typedef struct { double first, second, logp, noise; int32_t token; } Leaders;

INLINE void enter(Leaders *l, int32_t token, double logp, double noise) {
    const double score = logp + noise;
    if (score > l->first) {
        l->second = l->first;
        l->first = score, l->logp = logp, l->noise = noise, l->token = token;
    } else if (score > l->second) l->second = score;
}

/* One row. `room`: 8 n floats. The token is NAN_TOKEN where the row is not all numbers, NO_TOKEN where none may be. */
static Choice choose_row(const float *z, const Tokens *t, const Settings *s, int64_t position, float *room) {
    const int n = t->n;
    float best = -INFINITY;
    int at = 0, odd = 0;
    for (int from = 0; from < n; from += LANES) {
        const int to = smaller(from + LANES, n);
        int any = 0;
        for (int i = from; i < to; i++) any |= !(z[i] <= best);
        for (int i = from; any && i < to; i++) {
            odd |= z[i] != z[i];
            if (z[i] > best) best = z[i], at = i;
        }
    }
    if (odd || best == INFINITY) return (Choice){NAN_TOKEN, 0, 0, 0};
    if (best == -INFINITY) return (Choice){NO_TOKEN, 0, 0, 0};
    if (s->temperature == 0) return (Choice){t->ids ? t->ids[at] : at, 0, 0, 0};

    const double cold = 1.0 / s->temperature;
    const uint64_t stream = stream_of(s->seed, position);
    Leaders l = {-INFINITY, -INFINITY, 0, 0, -1};
    double sum = 0;
    const int cut = s->top_k > 0 && s->top_k < n;
    if (!cut && s->top_p >= 1 && s->min_p <= 0) { /* the whole vocabulary */
        float *weights = room, limit = INFINITY;
        sum = weigh(z, n, best, (float)cold, weights);
        for (int from = 0; from < n; from += 64) {
            const int count = smaller(64, n - from);
            float ahead[64];
            int any = 0;
            /* -log1p(-u) >= u, so a token with noise enough for the second place has u < p · e^-second */
            for (int j = 0; j < count; j++)
                ahead[j] = (float)(int64_t)bits(stream, t->ids ? t->ids[from + j] : from + j) * 0x1p-53f;
            for (int j = 0; j < count; j++) any |= ahead[j] < weights[from + j] * limit;
            for (int j = 0; any && j < count; j++) {
                if (!(ahead[j] < weights[from + j] * limit)) continue;
                const int32_t token = t->ids ? t->ids[from + j] : from + j;
                enter(&l, token, (z[from + j] - best) * cold, gumbel(bits(stream, token)));
                limit = l.second > -INFINITY ? (float)exp(-l.second) * 1.0001f : INFINITY;
            }
        }
    } else {
        int32_t *kept = (int32_t *)room, *heap = kept + n, *order = heap + n;
        double *weight = (double *)(order + n + n % 2);
        const float rare = s->min_p > 0 ? best + (float)(s->temperature * log(s->min_p)) : -INFINITY;
        double all = 0;
        float least = -INFINITY;
        if (cut) least = threshold_of(z, n, s->top_k, room);
        else if (s->top_p < 1) { /* what is rarer than this weighs, all together, less than what top-p takes away */
            all = weigh(z, n, best, (float)cold, (float *)weight);
            least = best + (float)(s->temperature * log(all * (1 - s->top_p) / n));
        }
        if (s->top_p >= 1) least = fmaxf(least, rare);
        int m = places_above(z, n, least, kept);
        if (s->top_p < 1) {
            double held = 0;
            for (int j = 0; j < m; j++) held += weight[j] = exp((z[kept[j]] - best) * cold);
            m = nucleus(kept, weight, m, s->top_p * (cut ? held : all), heap, order);
        }
        for (int j = 0; j < m; j++) {
            if (z[kept[j]] < rare) continue;
            const int32_t token = t->ids ? t->ids[kept[j]] : kept[j];
            const double logp = (z[kept[j]] - best) * cold;
            sum += exp(logp);
            enter(&l, token, logp, gumbel(bits(stream, token)));
        }
    }
    const double margin = l.first - l.second;
    return (Choice){l.token, l.logp - log(sum), l.noise, margin < MOST_MARGIN ? margin : MOST_MARGIN};
}

/* Tokens of logits (rows, ld). Row r is behind the first `length` + r tokens of `text`, which is looked at where there is a
 * penalty, and `length` + r is its position. scratch: 10 n floats. out: (rows). */
void lede_choose(const float *logits, int32_t rows, int32_t ld, const Tokens *t, const Settings *s, const int32_t *text,
                 int32_t length, float *scratch, Choice *out) {
    float *row = scratch + 8 * (int64_t)t->n;
    for (int r = 0; r < rows; r++, logits += ld) {
        const float *z = logits;
        if (s->penalty != 1 || s->suppressed) {
            memcpy(row, logits, t->n * sizeof *row);
            for (int i = 0; s->penalty != 1 && i < length + r; i++) {
                const int place = t->places ? t->places[text[i]] : text[i];
                if (place >= 0) row[place] = (float)(logits[place] < 0 ? logits[place] * s->penalty : logits[place] / s->penalty);
            }
            for (int i = 0; i < s->suppressed; i++) {
                const int place = t->places ? t->places[s->suppress[i]] : s->suppress[i];
                if (place >= 0) row[place] = -INFINITY;
            }
            z = row;
        }
        out[r] = choose_row(z, t, s, length + r, scratch);
    }
}

/* The noise of one token. */
double lede_noise(uint64_t seed, int64_t position, int32_t token) { return gumbel(bits(stream_of(seed, position), token)); }
