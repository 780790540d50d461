/* One step of a decoder: a token of every row in, the logits of the next one out, in one call and one team of threads.
 *
 * T5's kind and BART's, whichever order they have their norms in: a layer is three times "norm, something, add", and the
 * norms are listed in the order of use. With `before`, what goes into the something is normed and the sum stays as it is
 * (T5, mBART, Pegasus); without, the sum itself is normed (BART).
 *
 * Each row keeps its own keys and values: rows come, go and differ in length. The beams of a search share a cache, and a
 * table says whose entry counts at each position, so that nothing is copied when beams change places.
 *
 * Every field is 8 bytes wide: Python hands these structures over as rows of int64.
 */
#include "few_rows.h"
#include <omp.h>

typedef struct {
    const float *weight, *bias; /* NULL: no norm; bias NULL: the root mean square (T5), else mean and variance */
} norm;

typedef struct {
    norm norms[3];                                 /* in front of self-attention, cross-attention, feed-forward */
    dense own, own_out, query, other_out, up, down; /* own: query, key, value; up: the gelu's part, then the gate */
    const float *distance;                         /* [heads, reach]: added to a score by distance; or NULL */
} layer;

typedef struct {
    const layer *layers;
    int64_t count, width, heads, size, inner, reach;
    int64_t before, gated, activation;
    double eps, scale; /* of the norms; of the scores */
    norm last;
    dense head;
} decoder;

typedef struct {
    char *cache;   /* [beams][layers][2][heads][longest][size]: keys and values of what was written */
    int32_t *from; /* [longest]: whose beam's entry counts; NULL: this one's */
    int64_t beam, longest, at;
    const char *memory; /* [layers][2][heads][source][size]: keys and values of the question */
    int64_t source;
} row;

typedef struct {
    float *x, *wide;                  /* [rows, width], [rows, widest] */
    void *normed, *attended, *gated;  /* [rows up to 32s, width | inner | hidden, up to 32s] */
    float *scores;                    /* [threads, longest] */
    int64_t widest, longest;
} room;

enum { RELU, GELU_TANH, GELU_ERF, SILU };

static inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

/* The error function to 1.5 in 10^7 (Abramowitz and Stegun, 7.1.26). */
static inline float erf_(float x) {
    float a = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * a);
    float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    float y = 1.0f - p * exp_(-a * a);
    return x < 0 ? -y : y;
}

static void activate(float *x, ptrdiff_t count, int64_t kind) {
    if (kind == RELU)
        for (ptrdiff_t i = 0; i < count; i++) x[i] = x[i] > 0 ? x[i] : 0;
    else if (kind == GELU_TANH)
        for (ptrdiff_t i = 0; i < count; i++)
            x[i] *= sigmoid(1.595769122f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
    else if (kind == GELU_ERF)
        for (ptrdiff_t i = 0; i < count; i++) x[i] *= 0.5f * (1.0f + erf_(x[i] * 0.707106781f));
    else
        for (ptrdiff_t i = 0; i < count; i++) x[i] *= sigmoid(x[i]);
}

/* y = norm(x), one row; x itself where there is no norm. */
static void normed(const norm *w, const float *x, float *y, ptrdiff_t width, float eps) {
    if (!w->weight) {
        if (y != x) memcpy(y, x, (size_t)width * sizeof(float));
        return;
    }
    float mean = 0, squares = 0;
    if (w->bias) {
        for (ptrdiff_t i = 0; i < width; i++) mean += x[i];
        mean /= (float)width;
    }
    for (ptrdiff_t i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
    float s = 1.0f / sqrtf(squares / (float)width + eps);
    if (w->bias)
        for (ptrdiff_t i = 0; i < width; i++) y[i] = w->weight[i] * ((x[i] - mean) * s) + w->bias[i];
    else
        for (ptrdiff_t i = 0; i < width; i++) y[i] = w->weight[i] * (x[i] * s);
}

#define T float
#define LD ld_f
#define ST st_f
#define NAME(x) x##_f
#include "decoder_step.h"
#undef T
#undef LD
#undef ST
#undef NAME

#ifdef BF16_UNITS
#define T bf16
#define LD ld_b
#define ST st_b
#define NAME(x) x##_b
#include "decoder_step.h"
#endif

/* The first of the largest of each row of x [rows, N]. */
void first_largest(const float *x, int64_t *found, ptrdiff_t rows, ptrdiff_t N, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (rows > 1)
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float *y = x + r * N;
        float top = largest_f(y, N);
        ptrdiff_t i = 0;
        while (i < N - 1 && y[i] != top) i++;
        found[r] = i;
    }
}
