/* The gradient of the output layer without the tail of the vocabulary: of a softmax over a hundred thousand words a few
 * hundred hold nearly everything. What is large enough is taken as it is; of the rest every so-manieth, at a weight that
 * keeps the mean.
 *
 * Not covered: processors without bf16 units, as in products.c.
 */
#include "tiles.h"

#ifdef BF16_UNITS

enum { LANES = 16 };

/* sum[16 * REGISTERS] += weights[i] * W[words[i]], i < count */
#define ADD_ROWS(REGISTERS)                                                                                            \
    static inline void add_rows_##REGISTERS(float *sum, const float *W, ptrdiff_t D, const int32_t *words,             \
                                            const float *weights, ptrdiff_t count) {                                   \
        __m512 s[REGISTERS];                                                                                           \
        for (int r = 0; r < REGISTERS; r++) s[r] = _mm512_loadu_ps(sum + 16 * r);                                      \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            const float *row = W + words[i] * D;                                                                       \
            __m512 weight = _mm512_set1_ps(weights[i]);                                                                \
            for (int r = 0; r < REGISTERS; r++) s[r] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(row + 16 * r), s[r]);   \
        }                                                                                                              \
        for (int r = 0; r < REGISTERS; r++) _mm512_storeu_ps(sum + 16 * r, s[r]);                                      \
    }
ADD_ROWS(16)
ADD_ROWS(2)

/* expected[N, D] += e[N, V] W[V, D], for a part of the vocabulary, words start to start + V; D a multiple of 32.
 *
 * e is 1 for a row's label, so that `share` of what the other words came to so far, t, is a share of the gradient; t is
 * not below share^2 of all, which is nothing. A number below t counts as t or as nothing: one of 16 sums runs along, each
 * over every 16th word, from a random number below t on, and where it passes t that word is taken and t goes off again
 * (systematic sampling: each word is taken with the probability e / t, and t does not depend on what was drawn).
 * passed[N, 16]: those sums, in units of t, from part to part; drawn anew with the first. */
void tail_b(const bf16 *e, ptrdiff_t stride, const float *W, ptrdiff_t start, ptrdiff_t V, ptrdiff_t D,
            const float *totals, const int64_t *labels, float share, float *passed, float *expected, ptrdiff_t N,
            int64_t seed, int64_t stream, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 4) num_threads((int)threads)
    for (ptrdiff_t n = 0; n < N; n++) {
        int32_t words[V + LANES];
        float weights[V + LANES];
        if (start == 0) {
            generator g = seeded((uint64_t)seed, (uint64_t)stream, (uint64_t)n);
            __m512i bits = _mm512_srli_epi32((__m512i)next(&g, 0), 8);
            _mm512_storeu_ps(passed + n * LANES, _mm512_mul_ps(_mm512_cvtepi32_ps(bits), _mm512_set1_ps(0x1p-24f)));
        }
        float others = totals[n] - (labels[n] < start + V ? 1.0f : 0.0f);
        float least = share * fmaxf(others, share * fmaxf(totals[n], 1.0f));
        const __m512 t = _mm512_set1_ps(least), times = _mm512_set1_ps(1.0f / least), one = _mm512_set1_ps(1.0f);
        __m512 sum = _mm512_loadu_ps(passed + n * LANES);
        __m512i word = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        ptrdiff_t count = 0;
        for (ptrdiff_t v = 0; v < V; v += LANES, word = _mm512_add_epi32(word, _mm512_set1_epi32(LANES))) {
            __mmask16 there = v + LANES <= V ? 0xffff : (__mmask16)((1u << (V - v)) - 1);
            __m512 x = from_bf16(_mm256_maskz_loadu_epi16(there, e + n * stride + v));
            __m512 in_t = _mm512_mul_ps(x, times);
            __mmask16 large = _mm512_cmp_ps_mask(in_t, one, _CMP_GE_OQ);
            sum = _mm512_mask_add_ps(sum, (__mmask16)~large, sum, in_t);
            __mmask16 passes = _mm512_cmp_ps_mask(sum, one, _CMP_GE_OQ), counts = large | passes;
            if (!counts) continue;
            sum = _mm512_mask_sub_ps(sum, passes, sum, one);
            _mm512_storeu_ps(weights + count, _mm512_maskz_compress_ps(counts, _mm512_max_ps(x, t)));
            _mm512_storeu_si512(words + count, _mm512_maskz_compress_epi32(counts, word));
            count += __builtin_popcount(counts);
        }
        _mm512_storeu_ps(passed + n * LANES, sum);
        if (!count) continue;
        ptrdiff_t d = 0;
        for (; d + 256 <= D; d += 256) add_rows_16(expected + n * D + d, W + d, D, words, weights, count);
        for (; d < D; d += 32) add_rows_2(expected + n * D + d, W + d, D, words, weights, count);
    }
}
#endif
