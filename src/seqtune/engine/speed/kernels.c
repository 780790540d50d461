/* The elementwise parts of a training step, each in one pass over memory.
 *
 * A transformer's step on a CPU spends more time between its matrix products than in them: dropout's random numbers,
 * norms, activations and softmax each read and write whole tensors through PyTorch's operators. Here each of them is
 * one loop. The products stay with oneDNN.
 *
 * Plain C with GCC's and Clang's vector extensions, so that one source serves AVX-512, AVX2 and NEON; compiled on the
 * machine that runs it (native.py). Not covered: NaN payloads (a NaN stays a NaN), rows of more than 2^31 elements.
 *
 * Numbers are float or bfloat16 (as uint16_t); arithmetic is always float. The suffix of a function says which: _f or
 * _b, or both for input and output: _fb reads float and writes bfloat16.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

static inline float ld_f(const float *p) { return *p; }
static inline void st_f(float *p, float x) { *p = x; }
static inline float ld_b(const bf16 *p) {
    uint32_t u = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline void st_b(bf16 *p, float x) { /* to the nearest, ties to even */
    uint32_t u;
    memcpy(&u, &x, 4);
    *p = (bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* e^x to 1 in 10^7 for -87 <= x <= 88, clamped outside: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf). */
static inline float exp_(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* The largest of n > 0 numbers. (A plain loop is only vectorised under the promise that there are no NaNs.) */
#define LARGEST(NAME, T, LD)                                                                                           \
    static inline float NAME(const T *x, ptrdiff_t n) {                                                                \
        float m[16];                                                                                                   \
        ptrdiff_t i = 0;                                                                                               \
        for (int k = 0; k < 16; k++) m[k] = LD(x);                                                                     \
        for (; i + 16 <= n; i += 16)                                                                                   \
            for (int k = 0; k < 16; k++) {                                                                             \
                float v = LD(x + i + k);                                                                               \
                m[k] = v > m[k] ? v : m[k];                                                                            \
            }                                                                                                          \
        float top = m[0];                                                                                              \
        for (int k = 1; k < 16; k++) top = m[k] > top ? m[k] : top;                                                    \
        for (; i < n; i++) top = LD(x + i) > top ? LD(x + i) : top;                                                    \
        return top;                                                                                                    \
    }
LARGEST(largest_f, float, ld_f)
LARGEST(largest_b, bf16, ld_b)

/* ---- random numbers ------------------------------------------------------------------------------------------------
 * xoshiro128++ (Blackman and Vigna, 2021), 16 streams side by side, 32 decisions of 16 bits a draw. A block of numbers
 * is found by (seed, stream, block) alone: the backward pass draws the forward pass's numbers again instead of keeping
 * them, threads need no state, and a resumed run draws what the first one would have drawn. */
typedef uint32_t lanes __attribute__((vector_size(64)));
typedef struct {
    lanes s0, s1, s2, s3;
} generator;

enum { BLOCK = 1024, PER_DRAW = 32 }; /* elements of a flat tensor that share a generator; decisions of a draw */

static inline uint64_t mix64(uint64_t x) { /* SplitMix64's finalizer */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline lanes mix32(lanes x) { /* lowbias32 (Wellons) */
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline generator seeded(uint64_t seed, uint64_t stream, uint64_t block) {
    static const lanes lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint64_t key = mix64(mix64(mix64(seed + 0x9e3779b97f4a7c15ull) + stream) + block);
    uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    lanes at = lane * 4u + low;
    generator g;
    g.s0 = mix32(mix32(at) ^ high);
    g.s1 = mix32(mix32(at + 1u) ^ high);
    g.s2 = mix32(mix32(at + 2u) ^ high);
    g.s3 = mix32(mix32(at + 3u) ^ high) | 1u;
    return g;
}

static inline void draw(generator *g, uint16_t *out) {
    lanes sum = g->s0 + g->s3;
    lanes result = ((sum << 7) | (sum >> 25)) + g->s0;
    lanes t = g->s1 << 9;
    g->s2 ^= g->s0;
    g->s3 ^= g->s1;
    g->s1 ^= g->s2;
    g->s0 ^= g->s3;
    g->s2 ^= t;
    g->s3 = (g->s3 << 11) | (g->s3 >> 21);
    memcpy(out, &result, sizeof result);
}

static inline void draw_many(generator *g, uint16_t *out, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += PER_DRAW) draw(g, out + i);
}

/* ---- dropout -------------------------------------------------------------------------------------------------------
 * y = x * scale where the number drawn is at least `threshold` (of 65,536), else 0. Its own backward pass. */
#define DROPOUT(NAME, TX, LX, TY, SY)                                                                                  \
    void NAME(const TX *restrict x, TY *restrict y, ptrdiff_t count, uint64_t seed, uint64_t stream, int64_t threshold, float scale,         \
              int64_t threads) {                                                                                           \
        ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;                                                                \
        _Pragma("omp parallel for num_threads((int)threads) if (count > 16384)") for (ptrdiff_t b = 0; b < blocks; b++) {   \
            uint16_t r[BLOCK];                                                                                         \
            generator g = seeded(seed, stream, (uint64_t)b);                                                           \
            ptrdiff_t n = count - b * BLOCK < BLOCK ? count - b * BLOCK : BLOCK;                                       \
            draw_many(&g, r, n);                                                                                       \
            const TX *xb = x + b * BLOCK;                                                                              \
            TY *yb = y + b * BLOCK;                                                                                    \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                        \
                float v = LX(xb + i) * scale;                                                                          \
                SY(yb + i, r[i] >= threshold ? v : 0.0f);                                                              \
            }                                                                                                          \
        }                                                                                                              \
    }
DROPOUT(dropout_ff, float, ld_f, float, st_f)
DROPOUT(dropout_fb, float, ld_f, bf16, st_b)
DROPOUT(dropout_bf, bf16, ld_b, float, st_f)
DROPOUT(dropout_bb, bf16, ld_b, bf16, st_b)

/* y = base + dropout(x); y may be base. Its backward pass for x is dropout itself. */
#define DROPOUT_ADD(NAME, TB, LB, SB, TX, LX)                                                                          \
    void NAME(const TB *base, const TX *restrict x, TB *y, ptrdiff_t count, uint64_t seed, uint64_t stream,            \
              int64_t threshold, float scale, int64_t threads) {                                                       \
        ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;                                                                \
        _Pragma("omp parallel for num_threads((int)threads) if (count > 16384)") for (ptrdiff_t b = 0; b < blocks;     \
                                                                                      b++) {                           \
            uint16_t r[BLOCK];                                                                                         \
            ptrdiff_t at = b * BLOCK, n = count - at < BLOCK ? count - at : BLOCK;                                     \
            if (threshold) {                                                                                           \
                generator g = seeded(seed, stream, (uint64_t)b);                                                       \
                draw_many(&g, r, n);                                                                                   \
            } else                                                                                                     \
                memset(r, 0xff, sizeof r);                                                                             \
            _Pragma("GCC ivdep") for (ptrdiff_t i = 0; i < n; i++) {                                                   \
                float v = LX(x + at + i) * scale;                                                                      \
                SB(y + at + i, LB(base + at + i) + (r[i] >= threshold ? v : 0.0f));                                    \
            }                                                                                                          \
        }                                                                                                              \
    }
DROPOUT_ADD(dropout_add_ff, float, ld_f, st_f, float, ld_f)
DROPOUT_ADD(dropout_add_fb, float, ld_f, st_f, bf16, ld_b)
DROPOUT_ADD(dropout_add_bb, bf16, ld_b, st_b, bf16, ld_b)

/* ---- root mean square norm (Zhang and Sennrich, 2019) ---------------------------------------------------------------
 * y = weight * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps); rstd is kept for the backward pass
 * dx = rstd * (weight * dy) - x * rstd^3 * mean(weight * dy * x) + passed, the gradient that reaches x past the norm
 * (or NULL). The weight is frozen: it has no gradient. */
#define RMS(NAME, TX, LX, SX, TY, LY, SY)                                                                              \
    void rms_norm_##NAME(const TX *restrict x, const float *restrict weight, TY *restrict y, float *restrict rstd, ptrdiff_t rows, ptrdiff_t width,        \
                         float eps, int64_t threads) {                                                                     \
        _Pragma("omp parallel for num_threads((int)threads) if (rows * width > 16384)") for (ptrdiff_t r = 0; r < rows;     \
                                                                                        r++) {                         \
            const TX *xr = x + r * width;                                                                              \
            TY *yr = y + r * width;                                                                                    \
            float squares = 0;                                                                                         \
            for (ptrdiff_t i = 0; i < width; i++) {                                                                    \
                float v = LX(xr + i);                                                                                  \
                squares += v * v;                                                                                      \
            }                                                                                                          \
            float s = 1.0f / sqrtf(squares / (float)width + eps);                                                      \
            rstd[r] = s;                                                                                               \
            for (ptrdiff_t i = 0; i < width; i++) SY(yr + i, weight[i] * (LX(xr + i) * s));                            \
        }                                                                                                              \
    }                                                                                                                  \
    void rms_norm_backward_##NAME(const TY *restrict dy, const TX *restrict x, const float *restrict weight, const float *restrict rstd, const TX *passed, TX *restrict dx,           \
                                  ptrdiff_t rows, ptrdiff_t width, int64_t threads) {                                      \
        _Pragma("omp parallel for num_threads((int)threads) if (rows * width > 16384)") for (ptrdiff_t r = 0; r < rows;     \
                                                                                        r++) {                         \
            const TX *xr = x + r * width;                                                                              \
            const TY *gr = dy + r * width;                                                                             \
            TX *or = dx + r * width;                                                                                   \
            float dot = 0, s = rstd[r];                                                                                \
            for (ptrdiff_t i = 0; i < width; i++) dot += weight[i] * LY(gr + i) * LX(xr + i);                          \
            float c = dot * s * s * s / (float)width;                                                                  \
            if (passed)                                                                                                \
                for (ptrdiff_t i = 0; i < width; i++)                                                                  \
                    SX(or + i, s * weight[i] * LY(gr + i) - c * LX(xr + i) + LX(passed + r * width + i));              \
            else                                                                                                       \
                for (ptrdiff_t i = 0; i < width; i++) SX(or + i, s * weight[i] * LY(gr + i) - c * LX(xr + i));         \
        }                                                                                                              \
    }
RMS(ff, float, ld_f, st_f, float, ld_f, st_f)
RMS(fb, float, ld_f, st_f, bf16, ld_b, st_b)
RMS(bb, bf16, ld_b, st_b, bf16, ld_b, st_b)

/* ---- gated GELU with dropout behind it -------------------------------------------------------------------------------
 * y = dropout(gelu(a) * b), gelu(a) = a * sigmoid(2u), u = sqrt(2/pi) * (a + 0.044715 a^3): the tanh form, by
 * (1 + tanh u) / 2 = sigmoid(2u). The backward pass computes the gelu again. */
#define GATED(NAME, T, LD, ST)                                                                                         \
    void gated_gelu_##NAME(const T *restrict a, const T *restrict b, T *restrict y, ptrdiff_t count, uint64_t seed, uint64_t stream,              \
                           int64_t threshold, float scale, int64_t threads) {                                                  \
        ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;                                                                \
        _Pragma("omp parallel for num_threads((int)threads) if (count > 16384)") for (ptrdiff_t k = 0; k < blocks; k++) {   \
            uint16_t r[BLOCK];                                                                                         \
            ptrdiff_t at = k * BLOCK, n = count - at < BLOCK ? count - at : BLOCK;                                     \
            if (threshold) {                                                                                           \
                generator g = seeded(seed, stream, (uint64_t)k);                                                       \
                draw_many(&g, r, n);                                                                                   \
            } else                                                                                                     \
                memset(r, 0xff, sizeof r);                                                                             \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                        \
                float x = LD(a + at + i);                                                                              \
                float sig = 1.0f / (1.0f + exp_(-1.595769122f * (x + 0.044715f * x * x * x)));                         \
                float v = x * sig * LD(b + at + i) * scale;                                                            \
                ST(y + at + i, r[i] >= threshold ? v : 0.0f);                                                          \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    void gated_gelu_backward_##NAME(const T *restrict dy, const T *restrict a, const T *restrict b, T *restrict da, T *restrict db, ptrdiff_t count, uint64_t seed, \
                                    uint64_t stream, int64_t threshold, float scale, int64_t threads) {                        \
        ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;                                                                \
        _Pragma("omp parallel for num_threads((int)threads) if (count > 16384)") for (ptrdiff_t k = 0; k < blocks; k++) {   \
            uint16_t r[BLOCK];                                                                                         \
            ptrdiff_t at = k * BLOCK, n = count - at < BLOCK ? count - at : BLOCK;                                     \
            if (threshold) {                                                                                           \
                generator g = seeded(seed, stream, (uint64_t)k);                                                       \
                draw_many(&g, r, n);                                                                                   \
            } else                                                                                                     \
                memset(r, 0xff, sizeof r);                                                                             \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                        \
                float x = LD(a + at + i), gate = LD(b + at + i);                                                       \
                float v = LD(dy + at + i) * scale;                                                                     \
                v = r[i] >= threshold ? v : 0.0f;                                                                      \
                float sig = 1.0f / (1.0f + exp_(-1.595769122f * (x + 0.044715f * x * x * x)));                         \
                float slope = sig + x * sig * (1.0f - sig) * 1.595769122f * (1.0f + 0.134145f * x * x);                \
                ST(db + at + i, v * x * sig);                                                                          \
                ST(da + at + i, v * gate * slope);                                                                     \
            }                                                                                                          \
        }                                                                                                              \
    }
GATED(f, float, ld_f, st_f)
GATED(b, bf16, ld_b, st_b)

/* ---- attention ------------------------------------------------------------------------------------------------------
 * softmax(scaling * q k' + bias) with dropout, times v, and its backward pass, for one row and head after the other. At
 * the lengths of questions and answers all of a head fits the second-level cache, so that nothing but q, k, v and the
 * output is ever read from or written to memory; the backward pass computes the probabilities again.
 *
 * q, k, v: [rows, heads, positions, D], D dense, the other strides given (in elements); out and the gradients are dense
 * [rows, positions, heads, D]. bias [H, Q, K] float or NULL; mask bytes [B, Q, K] with strides over B and Q, or NULL,
 * 1 to attend; causal: key j counts for query i where j <= i + K - Q. lse [B, H, Q]: log of the sum of exponentials.
 * Arithmetic is float; suffix _b only says how q, k, v and the output are stored. */
typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
enum { WIDE = 32, TALL = 8, QUERIES = 32 }; /* tile of a product: 8 rows of 32 numbers; queries worked on together */

static inline ptrdiff_t padded(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }

/* C[8, 32] (+)= A[8, n] B[n, 32]; A by row and column strides, so that it may be transposed. */
static inline void tile(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t ar, ptrdiff_t ac, const float *B,
                        ptrdiff_t ldb, ptrdiff_t n, int add) {
    floats c[TALL][WIDE / 16];
    for (int r = 0; r < TALL; r++)
        for (int w = 0; w < WIDE / 16; w++) {
            floats zero = {0};
            c[r][w] = add ? *(const floats *)(C + r * ldc + w * 16) : zero;
        }
    for (ptrdiff_t k = 0; k < n; k++) {
        floats b[WIDE / 16];
        for (int w = 0; w < WIDE / 16; w++) b[w] = *(const floats *)(B + k * ldb + w * 16);
        for (int r = 0; r < TALL; r++) {
            float x = A[r * ar + k * ac];
            for (int w = 0; w < WIDE / 16; w++) c[r][w] += x * b[w];
        }
    }
    for (int r = 0; r < TALL; r++)
        for (int w = 0; w < WIDE / 16; w++) *(floats *)(C + r * ldc + w * 16) = c[r][w];
}

/* C[M, N] (+)= A[M, n] B[n, N]; M a multiple of 8, N of 32. */
static void product(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t ar, ptrdiff_t ac, const float *B, ptrdiff_t ldb,
                    ptrdiff_t M, ptrdiff_t N, ptrdiff_t n, int add) {
    for (ptrdiff_t j = 0; j < N; j += WIDE)
        for (ptrdiff_t i = 0; i < M; i += TALL)
            tile(C + i * ldc + j, ldc, A + i * ar, ar, ac, B + j, ldb, n, add);
}

typedef struct { /* what all rows and heads share; sizes in elements */
    const float *bias;
    const uint8_t *mask;
    ptrdiff_t mask_b, mask_q, H, Q, K, D, causal;
    float scaling;
    uint64_t seed, stream;
    int64_t threshold;
    float scale;
} attending;

/* e[j] = exp(score - top) of one query over its first n keys, 0 behind; returns n, rounded up to whole vectors.
 * r: the dropout's numbers, from g, which is seeded for each row, head and block of queries. */
static inline ptrdiff_t exponentials(const attending *a, float *e, generator *g, uint16_t *r, ptrdiff_t b, ptrdiff_t h,
                                     ptrdiff_t q, float *top, float *sum) {
    ptrdiff_t n = a->causal && q + a->K - a->Q + 1 < a->K ? q + a->K - a->Q + 1 : a->K, whole = padded(n, PER_DRAW);
    for (ptrdiff_t j = 0; j < whole; j++) e[j] *= a->scaling;
    if (a->bias) {
        const float *bias = a->bias + (h * a->Q + q) * a->K;
        for (ptrdiff_t j = 0; j < n; j++) e[j] += bias[j];
    }
    if (a->mask) {
        const uint8_t *m = a->mask + b * a->mask_b + q * a->mask_q;
        for (ptrdiff_t j = 0; j < n; j++) e[j] = m[j] ? e[j] : -1e30f;
    }
    for (ptrdiff_t j = n; j < whole; j++) e[j] = -1e30f;
    if (*top == INFINITY) *top = largest_f(e, whole);
    float t = *top, s = 0;
    for (ptrdiff_t j = 0; j < whole; j++) {
        float v = exp_(e[j] - t);
        v = e[j] < -1e29f ? 0.0f : v;
        e[j] = v;
        s += v;
    }
    *sum = s;
    if (a->threshold) draw_many(g, r, whole);
    return whole;
}

#define ATTENTION(NAME, T, LD, ST)                                                                                     \
    static void gather_##NAME(float *to, const T *from, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t D, ptrdiff_t Dp) {    \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            for (ptrdiff_t d = 0; d < D; d++) to[i * Dp + d] = LD(from + i * stride + d);                              \
            for (ptrdiff_t d = D; d < Dp; d++) to[i * Dp + d] = 0;                                                     \
        }                                                                                                              \
    }                                                                                                                  \
    static void scatter_##NAME(T *to, const float *from, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t D, ptrdiff_t Dp) {   \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            for (ptrdiff_t d = 0; d < D; d++) ST(to + i * stride + d, from[i * Dp + d]);                               \
    }                                                                                                                  \
    void attention_##NAME(const T *q, const T *k, const T *v, T *out, float *lse, const ptrdiff_t *strides,            \
                          const float *bias, const uint8_t *mask, ptrdiff_t mask_b, ptrdiff_t mask_q, ptrdiff_t B,     \
                          ptrdiff_t H, ptrdiff_t Q, ptrdiff_t K, ptrdiff_t D, int64_t causal, float scaling,           \
                          uint64_t seed, uint64_t stream, int64_t threshold, float scale, int64_t threads) {           \
        attending a = {bias, mask, mask_b, mask_q, H, Q, K, D, causal, scaling, seed, stream, threshold, scale};       \
        ptrdiff_t Dp = padded(D, WIDE), Kp = padded(K, WIDE);                                                          \
        _Pragma("omp parallel num_threads((int)threads)") {                                                            \
            float *kt = scratch(Dp * Kp + Kp * Dp + QUERIES * (Dp + Kp + Dp)), *vf = kt + Dp * Kp, *qf = vf + Kp * Dp, \
                  *s = qf + QUERIES * Dp, *o = s + QUERIES * Kp;                                                       \
            uint16_t *r = numbers(Kp);                                                                                 \
            _Pragma("omp for schedule(dynamic)") for (ptrdiff_t bh = 0; bh < B * H; bh++) {                            \
                ptrdiff_t b = bh / H, h = bh % H;                                                                      \
                gather_##NAME(vf, k + b * strides[3] + h * strides[4], strides[5], K, D, Dp);                          \
                transpose(kt, vf, K, Dp, Kp);                                                                          \
                gather_##NAME(vf, v + b * strides[6] + h * strides[7], strides[8], K, D, Dp);                          \
                memset(vf + K * Dp, 0, (size_t)((Kp - K) * Dp) * sizeof(float));                                       \
                for (ptrdiff_t at = 0; at < Q; at += QUERIES) {                                                        \
                    ptrdiff_t n = Q - at < QUERIES ? Q - at : QUERIES, M = padded(n, TALL);                            \
                    ptrdiff_t keys = causal && at + n + K - Q < K ? at + n + K - Q : K;                                \
                    generator random = seeded(seed, stream, (uint64_t)(bh * (Q + QUERIES) + at));                      \
                    memset(qf, 0, (size_t)(M * Dp) * sizeof(float));                                                   \
                    gather_##NAME(qf, q + b * strides[0] + h * strides[1] + at * strides[2], strides[2], n, D, Dp);    \
                    product(s, Kp, qf, Dp, 1, kt, Kp, M, padded(keys, WIDE), D, 0);                                    \
                    for (ptrdiff_t i = 0; i < M; i++) {                                                                \
                        float *e = s + i * Kp, top = INFINITY, sum;                                                    \
                        if (i >= n) {                                                                                  \
                            memset(e, 0, (size_t)Kp * sizeof(float));                                                  \
                            continue;                                                                                  \
                        }                                                                                              \
                        ptrdiff_t whole = exponentials(&a, e, &random, r, b, h, at + i, &top, &sum);                   \
                        lse[bh * Q + at + i] = top + logf(sum);                                                        \
                        float c = sum == 0 ? 0.0f : scale / sum;                                                       \
                        for (ptrdiff_t j = 0; j < whole; j++) e[j] = r[j] >= threshold ? e[j] * c : 0.0f;              \
                        for (ptrdiff_t j = whole; j < keys; j++) e[j] = 0.0f;                                          \
                    }                                                                                                  \
                    product(o, Dp, s, Kp, 1, vf, Dp, M, Dp, keys, 0);                                                  \
                    scatter_##NAME(out + (b * Q + at) * H * D + h * D, o, H * D, n, D, Dp);                            \
                }                                                                                                      \
            }                                                                                                          \
            free(kt);                                                                                                  \
            free(r);                                                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    void attention_backward_##NAME(const T *dout, const T *q, const T *k, const T *v, const float *lse, T *dq, T *dk,  \
                                   T *dv, const ptrdiff_t *strides, const float *bias, const uint8_t *mask,            \
                                   ptrdiff_t mask_b, ptrdiff_t mask_q, ptrdiff_t B, ptrdiff_t H, ptrdiff_t Q,          \
                                   ptrdiff_t K, ptrdiff_t D, int64_t causal, float scaling, uint64_t seed,             \
                                   uint64_t stream, int64_t threshold, float scale, int64_t threads) {                 \
        attending a = {bias, mask, mask_b, mask_q, H, Q, K, D, causal, scaling, seed, stream, threshold, scale};       \
        ptrdiff_t Dp = padded(D, WIDE), Kp = padded(K, WIDE), head = Kp * Dp;                                          \
        _Pragma("omp parallel num_threads((int)threads)") {                                                            \
            float *kf = scratch(5 * head + QUERIES * (3 * Dp + 2 * Kp)), *kt = kf + head, *vt = kt + head,             \
                  *gk = vt + head, *gv = gk + head, *qf = gv + head, *of = qf + QUERIES * Dp,                          \
                  *gq = of + QUERIES * Dp, *s = gq + QUERIES * Dp, *g = s + QUERIES * Kp;                              \
            uint16_t *r = numbers(Kp);                                                                                 \
            _Pragma("omp for schedule(dynamic)") for (ptrdiff_t bh = 0; bh < B * H; bh++) {                            \
                ptrdiff_t b = bh / H, h = bh % H;                                                                      \
                gather_##NAME(kf, v + b * strides[6] + h * strides[7], strides[8], K, D, Dp);                          \
                transpose(vt, kf, K, Dp, Kp);                                                                          \
                gather_##NAME(kf, k + b * strides[3] + h * strides[4], strides[5], K, D, Dp);                          \
                transpose(kt, kf, K, Dp, Kp);                                                                          \
                memset(gk, 0, (size_t)(2 * head) * sizeof(float));                                                     \
                for (ptrdiff_t at = 0; at < Q; at += QUERIES) {                                                        \
                    ptrdiff_t n = Q - at < QUERIES ? Q - at : QUERIES, M = padded(n, TALL);                            \
                    ptrdiff_t keys = causal && at + n + K - Q < K ? at + n + K - Q : K;                                \
                    generator random = seeded(seed, stream, (uint64_t)(bh * (Q + QUERIES) + at));                      \
                    ptrdiff_t wide = padded(keys, WIDE), tall = padded(keys, TALL);                                    \
                    memset(qf, 0, (size_t)(2 * QUERIES * Dp) * sizeof(float));                                         \
                    gather_##NAME(qf, q + b * strides[0] + h * strides[1] + at * strides[2], strides[2], n, D, Dp);    \
                    gather_##NAME(of, dout + (b * Q + at) * H * D + h * D, H * D, n, D, Dp);                           \
                    product(s, Kp, qf, Dp, 1, kt, Kp, M, wide, D, 0);                                                  \
                    product(g, Kp, of, Dp, 1, vt, Kp, M, wide, D, 0);                                                  \
                    for (ptrdiff_t i = 0; i < M; i++) {                                                                \
                        float *e = s + i * Kp, *ge = g + i * Kp, dot = 0, sum;                                         \
                        ptrdiff_t whole = 0;                                                                           \
                        if (i < n) {                                                                                   \
                            float top = lse[bh * Q + at + i];                                                          \
                            whole = exponentials(&a, e, &random, r, b, h, at + i, &top, &sum);                         \
                            for (ptrdiff_t j = 0; j < whole; j++) {                                                    \
                                ge[j] = r[j] >= threshold ? ge[j] * scale : 0.0f;                                      \
                                dot += e[j] * ge[j];                                                                   \
                            }                                                                                          \
                            for (ptrdiff_t j = 0; j < whole; j++) {                                                    \
                                ge[j] = e[j] * (ge[j] - dot) * scaling;                                                \
                                e[j] = r[j] >= threshold ? e[j] * scale : 0.0f;                                        \
                            }                                                                                          \
                        }                                                                                              \
                        for (ptrdiff_t j = whole; j < wide; j++) e[j] = ge[j] = 0.0f;                                  \
                    }                                                                                                  \
                    product(gq, Dp, g, Kp, 1, kf, Dp, M, Dp, keys, 0);                                                 \
                    product(gk, Dp, g, 1, Kp, qf, Dp, tall, Dp, n, 1);                                                 \
                    product(gv, Dp, s, 1, Kp, of, Dp, tall, Dp, n, 1);                                                 \
                    scatter_##NAME(dq + (b * Q + at) * H * D + h * D, gq, H * D, n, D, Dp);                            \
                }                                                                                                      \
                scatter_##NAME(dk + b * K * H * D + h * D, gk, H * D, K, D, Dp);                                       \
                scatter_##NAME(dv + b * K * H * D + h * D, gv, H * D, K, D, Dp);                                       \
            }                                                                                                          \
            free(kf);                                                                                                  \
            free(r);                                                                                                   \
        }                                                                                                              \
    }

static float *scratch(ptrdiff_t count) { return aligned_alloc(64, (size_t)padded(count * 4, 64)); }

static uint16_t *numbers(ptrdiff_t count) { /* without dropout every decision is to keep */
    uint16_t *r = aligned_alloc(64, (size_t)padded((count + PER_DRAW) * 2, 64));
    memset(r, 0xff, (size_t)(count + PER_DRAW) * 2);
    return r;
}

/* to[D, Kp] = from[K, D]', zeros in the columns from K on */
static void transpose(float *to, const float *from, ptrdiff_t K, ptrdiff_t D, ptrdiff_t Kp) {
    for (ptrdiff_t d = 0; d < D; d += 16)
        for (ptrdiff_t j = 0; j < Kp; j++)
            for (ptrdiff_t i = d; i < d + 16; i++) to[i * Kp + j] = j < K ? from[j * D + i] : 0.0f;
}

ATTENTION(f, float, ld_f, st_f)
ATTENTION(b, bf16, ld_b, st_b)

/* ---- softmax of the output layer ------------------------------------------------------------------------------------
 * logits [N, V] in; out, in the same place, e^(logit - row maximum); nll [N] = log(sum) + maximum - logit of the label;
 * inverse [N] = 1 / sum. The division is left to whoever multiplies the row by something smaller. */
#define CROSS_ENTROPY(NAME, T, LD, ST, LARGE)                                                                                 \
    void cross_entropy_##NAME(T *logits, const int64_t *labels, const float *bias, float *nll, float *inverse,         \
                              ptrdiff_t N, ptrdiff_t V, int64_t threads) {                                                 \
        _Pragma("omp parallel for num_threads((int)threads) if (N * V > 16384)") for (ptrdiff_t n = 0; n < N; n++) {        \
            T *l = logits + n * V;                                                                                     \
            if (bias)                                                                                                  \
                for (ptrdiff_t j = 0; j < V; j++) ST(l + j, LD(l + j) + bias[j]);                                      \
            float top = LARGE(l, V), label = LD(l + labels[n]);                                                        \
            double sum = 0;                                                                                            \
            for (ptrdiff_t at = 0; at < V; at += BLOCK) {                                                              \
                ptrdiff_t end = at + BLOCK < V ? at + BLOCK : V;                                                       \
                float part = 0;                                                                                        \
                for (ptrdiff_t j = at; j < end; j++) {                                                                 \
                    float v = LD(l + j) - top;                                                                         \
                    v = v < -69.0f ? 0.0f : exp_(v); /* 1e-30 of the largest: denormal numbers would slow the product */\
                    ST(l + j, v);                                                                                      \
                    part += v;                                                                                         \
                }                                                                                                      \
                sum += part;                                                                                           \
            }                                                                                                          \
            nll[n] = (float)(log(sum) + (double)(top - label));                                                        \
            inverse[n] = (float)(1.0 / sum);                                                                           \
        }                                                                                                              \
    }
CROSS_ENTROPY(f, float, ld_f, st_f, largest_f)
CROSS_ENTROPY(b, bf16, ld_b, st_b, largest_b)
