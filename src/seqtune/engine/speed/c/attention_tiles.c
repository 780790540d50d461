/* Attention in bf16, on processors with units for such products; what it computes stands in attention.h.
 *
 * One row and head after the other, 32 queries by 32 keys at a time. Scores, their softmax and their gradients are
 * float and never leave the first-level cache; as factors of the next product they are rounded to bf16, as autocast
 * would. The backward pass takes a block of keys at a time (Dao 2023, FlashAttention-2, section 3.1: sums over the keys
 * of probability times gradient are output times gradient of the output), so that the gradients of keys and values are
 * one product each.
 *
 * Not covered: heads whose size is no multiple of 32.
 */
#include "attention.h"
#include "tiles.h"

#ifdef BF16_UNITS
#include <omp.h>

static const float NOT_COUNTED = -1e30f;

/* Which of the keys j.. of 32 query i of row b counts. */
static inline uint32_t counted(const attending *a, ptrdiff_t b, ptrdiff_t i, ptrdiff_t j) {
    ptrdiff_t n = a->causal && i + a->K - a->Q + 1 < a->K ? i + a->K - a->Q + 1 : a->K;
    n -= j;
    if (n <= 0) return 0;
    uint32_t those = n >= EDGE ? 0xffffffffu : (1u << n) - 1;
    if (a->mask) {
        const uint8_t *mask = a->mask + b * a->mask_b + i * a->mask_q + j;
        those = _mm256_test_epi8_mask(_mm256_maskz_loadu_epi8(those, mask), _mm256_set1_epi8(-1));
    }
    return those;
}

/* scaling * s + bias for 16 of the keys. */
static inline __m512 score(const attending *a, const float *s, const float *bias, __mmask16 those) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(s), _mm512_set1_ps(a->scaling));
    return bias ? _mm512_add_ps(x, _mm512_maskz_loadu_ps(those, bias)) : x;
}

/* Keys from the first on that any of the 32 queries i.. counts, as whole blocks. */
static inline ptrdiff_t keys_of(const attending *a, ptrdiff_t i) {
    ptrdiff_t n = a->causal && i + EDGE + a->K - a->Q < a->K ? i + EDGE + a->K - a->Q : a->K;
    return padded(n > 0 ? n : 0, EDGE);
}

/* Sums of [32 of D, 32 keys], transposed, as columns d.. of n rows of bf16. */
static inline void scatter_transposed(bf16 *to, ptrdiff_t stride, const float *sums, ptrdiff_t n) {
    bf16 pairs[BLOCKED], whole[BLOCKED];
    for (ptrdiff_t r = 0; r < EDGE; r += 2) {
        const float *s = sums + r * EDGE;
        pair(pairs + r * EDGE, to_bf16(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16)),
             to_bf16(_mm512_loadu_ps(s + 32), _mm512_loadu_ps(s + 48)));
    }
    const bf16 *rows[16];
    for (int r = 0; r < 16; r++) rows[r] = pairs + r * 64;
    transpose_pairs(rows, 0, whole, EDGE);
    transpose_pairs(rows, 32, whole + 16 * EDGE, EDGE);
    for (ptrdiff_t r = 0; r < n; r++) _mm512_storeu_si512(to + r * stride, _mm512_loadu_si512(whole + r * EDGE));
}

void attention_tiles(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const ptrdiff_t *strides,
                     const float *bias, const uint8_t *mask, ptrdiff_t mask_b, ptrdiff_t mask_q, ptrdiff_t B,
                     ptrdiff_t H, ptrdiff_t Q, ptrdiff_t K, ptrdiff_t D, int64_t causal, float scaling, uint64_t seed,
                     uint64_t stream, int64_t threshold, float scale, int64_t threads) {
    attending a = {bias, mask, mask_b, mask_q, H, Q, K, D, causal, scaling, seed, stream, threshold, scale};
    ptrdiff_t Kp = padded(K, EDGE);
#pragma omp parallel num_threads((int)threads)
    {
        char *room = aligned_alloc(64, (size_t)padded(2 * Kp * D * 2 + EDGE * (Kp * 6 + D * 2) + 3 * BLOCKED * 4 + 1024, 64));
        char *at = room;
        bf16 *keys = taken(&at, Kp * D * 2), *values = taken(&at, Kp * D * 2), *edge = taken(&at, EDGE * D * 2),
             *weights = taken(&at, EDGE * Kp * 2);
        float *s = taken(&at, EDGE * Kp * 4), *o = taken(&at, BLOCKED * 4), *top = taken(&at, EDGE * 16 * 4),
              *sum = taken(&at, EDGE * 16 * 4);
        finished nothing = {.rows = 0};
        const __m512i limit = _mm512_set1_epi16((short)threshold);
        tiles_on();
#pragma omp for schedule(dynamic)
        for (ptrdiff_t bh = 0; bh < B * H; bh++) {
            ptrdiff_t b = bh / H, h = bh % H;
            packed_all(keys, k + b * strides[3] + h * strides[4], strides[5], BY_COLUMNS, K, D, D);
            packed_all(values, v + b * strides[6] + h * strides[7], strides[8], BY_ROWS, D, K, Kp);
            for (ptrdiff_t i = 0; i < Q; i += EDGE) {
                ptrdiff_t n = Q - i < EDGE ? Q - i : EDGE, wide = keys_of(&a, i), stride = strides[2];
                const bf16 *queries = block(q + b * strides[0] + h * strides[1], &stride, i, Q, D, edge);
                for (ptrdiff_t r = 0; r < EDGE; r++) {
                    _mm512_store_ps(top + r * 16, _mm512_set1_ps(NOT_COUNTED));
                    _mm512_store_ps(sum + r * 16, _mm512_setzero_ps());
                }
                for (ptrdiff_t j = 0; j < wide; j += EDGE) {
                    float *sj = s + j * EDGE;
                    multiply(queries, stride, keys + j * D, D, sj, 0, &nothing);
                    for (ptrdiff_t r = 0; r < n; r++) {
                        uint32_t those = counted(&a, b, i + r, j);
                        const float *added = bias ? bias + (h * Q + i + r) * K + j : NULL;
                        for (int w = 0; w < 2; w++) {
                            __mmask16 half = (__mmask16)(those >> (16 * w));
                            __m512 x = score(&a, sj + r * 32 + 16 * w, added ? added + 16 * w : NULL, half);
                            x = _mm512_mask_mov_ps(_mm512_set1_ps(NOT_COUNTED), half, x);
                            _mm512_store_ps(sj + r * 32 + 16 * w, x);
                            _mm512_store_ps(top + r * 16, _mm512_max_ps(x, _mm512_load_ps(top + r * 16)));
                        }
                    }
                }
                for (ptrdiff_t r = 0; r < n; r++)
                    _mm512_store_ps(top + r * 16, _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_load_ps(top + r * 16))));
                for (ptrdiff_t j = 0; j < wide; j += EDGE) {
                    generator g = of_block(seed, stream, bh * padded(Q, EDGE) + i, j, K);
                    for (ptrdiff_t r = 0; r < n; r++) {
                        const float *x = s + j * EDGE + r * 32;
                        __m512 t = _mm512_load_ps(top + r * 16), e[2];
                        for (int w = 0; w < 2; w++) {
                            __m512 y = _mm512_load_ps(x + 16 * w);
                            /* not "greater than": a NaN counts, so that it is seen */
                            __mmask16 those = _mm512_cmp_ps_mask(y, _mm512_set1_ps(NOT_COUNTED), _CMP_NLE_UQ);
                            e[w] = _mm512_maskz_mov_ps(those, exponential(_mm512_sub_ps(y, t)));
                        }
                        __m512 both = _mm512_add_ps(e[0], e[1]);
                        _mm512_store_ps(sum + r * 16, _mm512_add_ps(_mm512_load_ps(sum + r * 16), both));
                        __m512i p = to_bf16(e[0], e[1]);
                        if (threshold) p = _mm512_maskz_mov_epi16(kept(&g, limit), p);
                        _mm512_store_si512(weights + r * Kp + j, p);
                    }
                    for (ptrdiff_t r = n; r < EDGE; r++)
                        _mm512_store_si512(weights + r * Kp + j, _mm512_setzero_si512());
                }
                for (ptrdiff_t d = 0; d < D; d += EDGE) {
                    multiply(weights, Kp, values + d * Kp, wide, o, 0, &nothing);
                    for (ptrdiff_t r = 0; r < n; r++) {
                        float all = _mm512_reduce_add_ps(_mm512_load_ps(sum + r * 16));
                        /* a query that counts no key gets nothing, now and in the backward pass */
                        lse[bh * Q + i + r] = all == 0 ? INFINITY : top[r * 16] + logf(all);
                        __m512 c = _mm512_set1_ps(all == 0 ? 0 : scale / all);
                        __m512i found = to_bf16(_mm512_mul_ps(c, _mm512_load_ps(o + r * 32)),
                                                _mm512_mul_ps(c, _mm512_load_ps(o + r * 32 + 16)));
                        _mm512_storeu_si512(out + ((b * Q + i + r) * H + h) * D + d, found);
                    }
                }
            }
        }
        tiles_off();
        free(room);
    }
}

void attention_tiles_backward(const bf16 *dout, const bf16 *out, const bf16 *q, const bf16 *k, const bf16 *v,
                              const float *lse, bf16 *dq, bf16 *dk, bf16 *dv, const ptrdiff_t *strides,
                              const float *bias, const uint8_t *mask, ptrdiff_t mask_b, ptrdiff_t mask_q, ptrdiff_t B,
                              ptrdiff_t H, ptrdiff_t Q, ptrdiff_t K, ptrdiff_t D, int64_t causal, float scaling,
                              uint64_t seed, uint64_t stream, int64_t threshold, float scale, int64_t threads) {
    attending a = {bias, mask, mask_b, mask_q, H, Q, K, D, causal, scaling, seed, stream, threshold, scale};
    ptrdiff_t Kp = padded(K, EDGE), Qp = padded(Q, EDGE);
#pragma omp parallel num_threads((int)threads)
    {
        ptrdiff_t size = 3 * Kp * D + 2 * Qp * D + Qp * Kp + 2 * Qp * EDGE + 2 * EDGE * D;
        char *room = aligned_alloc(64, (size_t)padded(size * 2 + 3 * BLOCKED * 4 + Qp * 4 + 1024, 64)), *at = room;
        bf16 *keys = taken(&at, Kp * D * 2), *values = taken(&at, Kp * D * 2), *keys_back = taken(&at, Kp * D * 2),
             *qt = taken(&at, Qp * D * 2), *gt = taken(&at, Qp * D * 2), *ds = taken(&at, Qp * Kp * 2),
             *p_pairs = taken(&at, Qp * EDGE * 2), *ds_pairs = taken(&at, Qp * EDGE * 2),
             *q_edge = taken(&at, EDGE * D * 2), *g_edge = taken(&at, EDGE * D * 2);
        float *s = taken(&at, BLOCKED * 4), *dp = taken(&at, BLOCKED * 4), *found = taken(&at, BLOCKED * 4),
              *delta = taken(&at, Qp * 4);
        finished nothing = {.rows = 0};
        const __m512i limit = _mm512_set1_epi16((short)threshold);
        const __m512 by = _mm512_set1_ps(scaling), up = _mm512_set1_ps(scale);
        tiles_on();
#pragma omp for schedule(dynamic)
        for (ptrdiff_t bh = 0; bh < B * H; bh++) {
            ptrdiff_t b = bh / H, h = bh % H, row = H * D;
            const bf16 *qh = q + b * strides[0] + h * strides[1], *gh = dout + b * Q * row + h * D;
            const bf16 *oh = out + b * Q * row + h * D;
            packed_all(keys, k + b * strides[3] + h * strides[4], strides[5], BY_COLUMNS, K, D, D);
            packed_all(values, v + b * strides[6] + h * strides[7], strides[8], BY_COLUMNS, K, D, D);
            packed_all(keys_back, k + b * strides[3] + h * strides[4], strides[5], BY_ROWS, D, K, Kp);
            transposed(qt, qh, strides[2], Q, Qp, D);
            transposed(gt, gh, row, Q, Qp, D);
            for (ptrdiff_t i = 0; i < Q; i++) {
                __m512 dot = _mm512_setzero_ps();
                for (ptrdiff_t d = 0; d < D; d += EDGE)
                    dot = _mm512_dpbf16_ps(dot, (__m512bh)_mm512_loadu_si512(oh + i * row + d),
                                           (__m512bh)_mm512_loadu_si512(gh + i * row + d));
                delta[i] = _mm512_reduce_add_ps(dot);
            }
            for (ptrdiff_t j = 0; j < K; j += EDGE) {
                ptrdiff_t first = causal && j - (K - Q) > 0 ? (j - (K - Q)) / EDGE * EDGE : 0;
                for (ptrdiff_t i = first; i < Q; i += EDGE) {
                    ptrdiff_t n = Q - i < EDGE ? Q - i : EDGE, q_stride = strides[2], g_stride = row;
                    const bf16 *queries = block(qh, &q_stride, i, Q, D, q_edge);
                    const bf16 *gradients = block(gh, &g_stride, i, Q, D, g_edge);
                    multiply(queries, q_stride, keys + j * D, D, s, 0, &nothing);
                    multiply(gradients, g_stride, values + j * D, D, dp, 0, &nothing);
                    generator g = of_block(seed, stream, bh * padded(Q, EDGE) + i, j, K);
                    for (ptrdiff_t r = 0; r < EDGE; r += 2) {
                        __m512i p_low[2], ds_low[2];
                        for (ptrdiff_t of = 0; of < 2; of++) {
                            ptrdiff_t at_query = i + r + of;
                            if (r + of >= n) {
                                p_low[of] = ds_low[of] = _mm512_setzero_si512();
                                continue;
                            }
                            uint32_t those = counted(&a, b, at_query, j);
                            uint32_t keep = threshold ? kept(&g, limit) : 0xffffffffu;
                            const float *added = bias ? bias + (h * Q + at_query) * K + j : NULL;
                            const __m512 total = _mm512_set1_ps(lse[bh * Q + at_query]);
                            const __m512 mean = _mm512_set1_ps(delta[at_query]);
                            __m512 p[2], dx[2];
                            for (int w = 0; w < 2; w++) {
                                __mmask16 half = (__mmask16)(those >> (16 * w)), stays = (__mmask16)(keep >> (16 * w));
                                const float *x = s + (r + of) * 32 + 16 * w;
                                __m512 y = score(&a, x, added ? added + 16 * w : NULL, half);
                                __m512 e = _mm512_maskz_mov_ps(half, exponential(_mm512_sub_ps(y, total)));
                                __m512 back = _mm512_maskz_mul_ps(stays, up, _mm512_load_ps(dp + (r + of) * 32 + 16 * w));
                                dx[w] = _mm512_mul_ps(_mm512_mul_ps(e, by), _mm512_sub_ps(back, mean));
                                p[w] = _mm512_maskz_mul_ps(stays, up, e);
                            }
                            p_low[of] = to_bf16(p[0], p[1]);
                            ds_low[of] = to_bf16(dx[0], dx[1]);
                        }
                        _mm512_store_si512(ds + (i + r) * Kp + j, ds_low[0]);
                        _mm512_store_si512(ds + (i + r + 1) * Kp + j, ds_low[1]);
                        pair(p_pairs + (i + r) * EDGE, p_low[0], p_low[1]);
                        pair(ds_pairs + (i + r) * EDGE, ds_low[0], ds_low[1]);
                    }
                }
                ptrdiff_t n = K - j < EDGE ? K - j : EDGE, depth = Qp - first;
                for (ptrdiff_t d = 0; d < D; d += EDGE) {
                    multiply(gt + d * Qp + first, Qp, p_pairs + first * EDGE, depth, found, 0, &nothing);
                    scatter_transposed(dv + (b * K + j) * row + h * D + d, row, found, n);
                    multiply(qt + d * Qp + first, Qp, ds_pairs + first * EDGE, depth, found, 0, &nothing);
                    scatter_transposed(dk + (b * K + j) * row + h * D + d, row, found, n);
                }
            }
            for (ptrdiff_t i = 0; i < Q; i += EDGE) {
                ptrdiff_t n = Q - i < EDGE ? Q - i : EDGE;
                for (ptrdiff_t d = 0; d < D; d += EDGE) {
                    multiply(ds + i * Kp, Kp, keys_back + d * Kp, keys_of(&a, i), found, 0, &nothing);
                    for (ptrdiff_t r = 0; r < n; r++)
                        _mm512_storeu_si512(dq + (b * Q + i + r) * row + h * D + d,
                                            to_bf16(_mm512_load_ps(found + r * 32), _mm512_load_ps(found + r * 32 + 16)));
                }
            }
        }
        tiles_off();
        free(room);
    }
}
#endif
