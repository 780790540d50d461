/* Attention in float, for any processor (attention_tiles.c is for those with bf16 units).
 *
 * softmax(scaling * q k' + bias) with dropout, times v, and its backward pass, for one row and head after the other. At
 * the lengths of questions and answers all of a head fits the second-level cache, so that nothing but q, k, v and the
 * output is ever read from or written to memory; the backward pass computes the probabilities again.
 *
 * Arithmetic is float; suffix _b only says how q, k, v and the output are stored.
 */
#include "attention.h"

enum { WIDE = 32, TALL = 8, QUERIES = 32 }; /* what sizes are filled up to; queries worked on together */

/* A tile of a product: its sums, the row of B and one number of A have to stay in registers. */
#ifdef __AVX512F__
enum { DOWN = 8 };
#else
enum { DOWN = 4 };
#endif
enum { ACROSS = 2 * FLOATS };

/* C[DOWN, ACROSS] (+)= A[DOWN, n] B[n, ACROSS]; A by row and column strides, so that it may be transposed. */
static inline void tile(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t ar, ptrdiff_t ac, const float *B,
                        ptrdiff_t ldb, ptrdiff_t n, int add) {
    floats c[DOWN][2];
    for (int r = 0; r < DOWN; r++)
        for (int w = 0; w < 2; w++) {
            floats zero = {0};
            c[r][w] = add ? *(const floats *)(C + r * ldc + w * FLOATS) : zero;
        }
    for (ptrdiff_t k = 0; k < n; k++) {
        floats left = *(const floats *)(B + k * ldb), right = *(const floats *)(B + k * ldb + FLOATS);
        for (int r = 0; r < DOWN; r++) {
            float x = A[r * ar + k * ac];
            c[r][0] += x * left;
            c[r][1] += x * right;
        }
    }
    for (int r = 0; r < DOWN; r++)
        for (int w = 0; w < 2; w++) *(floats *)(C + r * ldc + w * FLOATS) = c[r][w];
}

/* C[M, N] (+)= A[M, n] B[n, N]; M a multiple of 8, N of 32. */
static void product(float *C, ptrdiff_t ldc, const float *A, ptrdiff_t ar, ptrdiff_t ac, const float *B, ptrdiff_t ldb,
                    ptrdiff_t M, ptrdiff_t N, ptrdiff_t n, int add) {
    for (ptrdiff_t j = 0; j < N; j += ACROSS)
        for (ptrdiff_t i = 0; i < M; i += DOWN)
            tile(C + i * ldc + j, ldc, A + i * ar, ar, ac, B + j, ldb, n, add);
}

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
