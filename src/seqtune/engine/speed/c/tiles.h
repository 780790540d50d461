/* The inner part of bf16 products, on processors with units for them: packing, and 32 x 32 sums at a time.
 *
 * The second factor is packed as the units want it: 32 columns at a time, pairs of neighbours along the inner axis side
 * by side, column after column. On processors with AMX the work is done in 2 x 2 tiles of 16 x 16, else with AVX-512's
 * bf16 dot products, 8 rows by 32 columns. Sums are float.
 */
#pragma once
#include "numbers.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define BF16_UNITS
#include <immintrin.h>

/* Columns of a panel of B; rows worked on together; longest run of K (a panel of it fills two thirds of the first-level
 * cache). */
enum { COLUMNS = 32, ROWS = 32, DEPTH = 512 };

/* How B lies: [N, K]; [K, N]; or a frozen weight W [N, K] packed once (pack_weight), for A W' and for A W. */
enum { BY_COLUMNS = 0, BY_ROWS = 1, PACKED = 2, PACKED_ACROSS = 3 };

extern int seqtune_amx; /* products.c: whether tiles are used */

/* Around what a thread does with tiles. */
static inline void tiles_on(void) {
#ifdef __AMX_BF16__
    if (!seqtune_amx) return;
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) tiles.bytes[i] = 64, tiles.rows[i] = 16;
    _tile_loadconfig(&tiles);
#endif
}
static inline void tiles_off(void) {
#ifdef __AMX_BF16__
    if (seqtune_amx) _tile_release();
#endif
}

/* to[i] = the i-th 32-bit element of each of 16 rows: a transposition of 16 x 16 pairs of bf16. */
static inline void transpose_pairs(const bf16 *const *rows, ptrdiff_t at, bf16 *to, ptrdiff_t stride) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = rows[i] ? _mm512_loadu_si512(rows[i] + at) : _mm512_setzero_si512();
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * stride, r[i]);
}

/* 8 x 8 elements of 64 bits, transposed. */
static inline void transpose_8(__m512i r[8]) {
    __m512i t[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[i] = _mm512_shuffle_i64x2(t[i], t[i + 2], 0x88);
        r[i + 2] = _mm512_shuffle_i64x2(t[i], t[i + 2], 0xdd);
        r[i + 4] = _mm512_shuffle_i64x2(t[i + 4], t[i + 6], 0x88);
        r[i + 6] = _mm512_shuffle_i64x2(t[i + 4], t[i + 6], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i64x2(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i64x2(r[i], r[i + 4], 0xdd);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

/* Columns n.. of A W from W packed for A W': 32 x 32 numbers at a time, pairs along one side to pairs along the other. */
static void pack_across(bf16 *packed, const bf16 *W, ptrdiff_t width, ptrdiff_t n, ptrdiff_t k, ptrdiff_t depth) {
    const __m512i swap = _mm512_set_epi16(31, 29, 30, 28, 27, 25, 26, 24, 23, 21, 22, 20, 19, 17, 18, 16, 15, 13, 14, 12,
                                          11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
    for (ptrdiff_t j = 0; j < depth; j += 32) {
        /* of panel (k + j) / 32 of W: its pair rows n / 2.., each of 32 pairs */
        const bf16 *from = W + ((k + j) / 32 * (width / 2) + n / 2) * 64;
        for (int right = 0; right < 2; right++)
            for (int low = 0; low < 2; low++) {
                __m512i r[8];
                for (int i = 0; i < 8; i++)
                    r[i] = _mm512_permutexvar_epi16(swap, _mm512_loadu_si512(from + (right * 8 + i) * 64 + low * 32));
                transpose_8(r);
                for (int i = 0; i < 8; i++)
                    _mm512_storeu_si512(packed + (j / 2 + low * 8 + i) * 64 + right * 32, r[i]);
            }
    }
}

/* Two rows of 32 numbers, element by element side by side. */
static inline void pair(bf16 *to, __m512i a, __m512i b) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
    _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(a, high, b));
}

/* Columns n.. of B, rows k.. to k + depth, as packed[depth / 2][32][2]; zeros beyond the edges. depth: a multiple of 32. */
static void pack(bf16 *packed, const bf16 *B, ptrdiff_t ldb, int lies, ptrdiff_t n, ptrdiff_t N, ptrdiff_t k,
                 ptrdiff_t K, ptrdiff_t depth) {
    if (lies == PACKED_ACROSS) {
        pack_across(packed, B, ldb, n, k, depth);
        return;
    }
    if (lies == BY_COLUMNS) {
        for (int half = 0; half < 2; half++) {
            const bf16 *rows[16];
            for (int i = 0; i < 16; i++) {
                ptrdiff_t column = n + half * 16 + i;
                rows[i] = column < N ? B + column * ldb + k : NULL;
            }
            for (ptrdiff_t at = 0; at < depth; at += 32)
                transpose_pairs(rows, at, packed + at * COLUMNS + half * 32, 2 * COLUMNS);
        }
        return;
    }
    __mmask32 there = n + COLUMNS <= N ? 0xffffffffu : (1u << (N - n)) - 1; /* BY_ROWS */
    for (ptrdiff_t j = 0; j < depth; j += 2) {
        const bf16 *row = B + (k + j) * ldb + n;
        __m512i a = k + j < K ? _mm512_maskz_loadu_epi16(there, row) : _mm512_setzero_si512();
        __m512i b = k + j + 1 < K ? _mm512_maskz_loadu_epi16(there, row + ldb) : _mm512_setzero_si512();
        pair(packed + j * COLUMNS, a, b);
    }
}

/* The next 32 decisions to keep. */
static inline uint32_t kept(generator *g, __m512i threshold) {
    return _mm512_cmpge_epu16_mask((__m512i)next(g, 0), threshold);
}

/* Sums[rows, 32] that go to columns n.. of C, from row m on; `done` of the rows are there. Written while the tiles of
 * the next product are at work: the two use different units. */
typedef struct {
    const float *sums;
    void *C;
    ptrdiff_t ldc;
    int how;
    ptrdiff_t m, n, N, done, rows;
    const float *shift; /* EXPONENTIALS: subtracted first, by row */
    float *totals;      /* EXPONENTIALS: [M, 16], what each row came to */
    const float *update; /* sums to be added where the numbers drawn say so, or NULL */
    generator random;
    int64_t threshold;
} finished;

/* What becomes of the sums: C as bf16, as float, added to C, or their exponentials as bf16. */
enum { TO_BF16 = 0, TO_FLOAT = 1, ADD_TO_FLOAT = 2, EXPONENTIALS = 3 };

/* e^x to 1 in 10^7 for -87 <= x <= 88, clamped outside: numbers.h's exp_ with this processor's own scaling. */
static inline __m512 exponential(__m512 x) {
    x = _mm512_min_ps(_mm512_set1_ps(88.3f), x); /* this way round a NaN stays one */
    x = _mm512_max_ps(_mm512_set1_ps(-87.3f), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

static inline void finish(finished *f, ptrdiff_t most) {
    uint32_t there = f->n + COLUMNS <= f->N ? 0xffffffffu : (1u << (f->N - f->n)) - 1;
    ptrdiff_t end = f->done + most < f->rows ? f->done + most : f->rows;
    for (; f->done < end; f->done++) {
        ptrdiff_t r = f->done;
        __m512 a = _mm512_loadu_ps(f->sums + r * 32), b = _mm512_loadu_ps(f->sums + r * 32 + 16);
        if (f->update) {
            uint32_t keep = kept(&f->random, _mm512_set1_epi16((short)f->threshold));
            a = _mm512_mask_add_ps(a, (__mmask16)keep, a, _mm512_loadu_ps(f->update + r * 32));
            b = _mm512_mask_add_ps(b, (__mmask16)(keep >> 16), b, _mm512_loadu_ps(f->update + r * 32 + 16));
        }
        if (f->how == EXPONENTIALS) {
            __m512 shift = _mm512_set1_ps(f->shift[f->m + r]);
            a = _mm512_maskz_mov_ps((__mmask16)there, exponential(_mm512_sub_ps(a, shift)));
            b = _mm512_maskz_mov_ps((__mmask16)(there >> 16), exponential(_mm512_sub_ps(b, shift)));
            float *total = f->totals + (f->m + r) * 16;
            _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), _mm512_add_ps(a, b)));
        }
        if (f->how == TO_FLOAT || f->how == ADD_TO_FLOAT) {
            float *to = (float *)f->C + (f->m + r) * f->ldc + f->n;
            if (f->how == ADD_TO_FLOAT) {
                a = _mm512_add_ps(a, _mm512_maskz_loadu_ps((__mmask16)there, to));
                b = _mm512_add_ps(b, _mm512_maskz_loadu_ps((__mmask16)(there >> 16), to + 16));
            }
            _mm512_mask_storeu_ps(to, (__mmask16)there, a);
            _mm512_mask_storeu_ps(to + 16, (__mmask16)(there >> 16), b);
        } else
            _mm512_mask_storeu_epi16((bf16 *)f->C + (f->m + r) * f->ldc + f->n, there,
                                     (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

#ifdef __AMX_BF16__
/* sums[32, 32] (+)= A[32, depth] packed */
static inline void multiply_amx(const bf16 *A, ptrdiff_t lda, const bf16 *packed, ptrdiff_t depth, float *sums,
                                int add, finished *before) {
    if (add) {
        _tile_loadd(0, sums, 128);
        _tile_loadd(1, sums + 16, 128);
        _tile_loadd(2, sums + 512, 128);
        _tile_loadd(3, sums + 528, 128);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (ptrdiff_t k = 0; k < depth; k += 32) {
        _tile_stream_loadd(4, A + k, lda * 2);
        _tile_loadd(6, packed + k * COLUMNS, 128);
        _tile_loadd(7, packed + k * COLUMNS + 32, 128);
        _tile_stream_loadd(5, A + 16 * lda + k, lda * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        finish(before, 2);
    }
    finish(before, ROWS);
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + 16, 128);
    _tile_stored(2, sums + 512, 128);
    _tile_stored(3, sums + 528, 128);
}
#endif

#define DOTS 8
static inline void multiply_dots(const bf16 *A, ptrdiff_t lda, const bf16 *packed, ptrdiff_t depth, float *sums,
                                 int add) {
    for (int i = 0; i < ROWS; i += DOTS) {
        __m512 c[DOTS][2];
        for (int r = 0; r < DOTS; r++)
            for (int w = 0; w < 2; w++)
                c[r][w] = add ? _mm512_loadu_ps(sums + (i + r) * 32 + w * 16) : _mm512_setzero_ps();
        for (ptrdiff_t k = 0; k < depth; k += 2) {
            __m512bh b0 = (__m512bh)_mm512_loadu_si512(packed + k * COLUMNS);
            __m512bh b1 = (__m512bh)_mm512_loadu_si512(packed + k * COLUMNS + 32);
            for (int r = 0; r < DOTS; r++) {
                int32_t pair;
                memcpy(&pair, A + (i + r) * lda + k, 4);
                __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
                c[r][0] = _mm512_dpbf16_ps(c[r][0], a, b0);
                c[r][1] = _mm512_dpbf16_ps(c[r][1], a, b1);
            }
        }
        for (int r = 0; r < DOTS; r++)
            for (int w = 0; w < 2; w++) _mm512_storeu_ps(sums + (i + r) * 32 + w * 16, c[r][w]);
    }
}

static inline void multiply(const bf16 *A, ptrdiff_t lda, const bf16 *packed, ptrdiff_t depth, float *sums, int add,
                            finished *before) {
#ifdef __AMX_BF16__
    if (seqtune_amx) {
        multiply_amx(A, lda, packed, depth, sums, add, before);
        return;
    }
#endif
    finish(before, ROWS);
    multiply_dots(A, lda, packed, depth, sums, add);
}
/* ---- what is built of these: blocks of 32 rows by 32 columns ------------------------------------------------------ */
enum { EDGE = 32, BLOCKED = EDGE * EDGE };

static inline __m512i to_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

static inline __m512 from_bf16(__m256i x) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

/* Rows i.. of 32 of a matrix [N, D]: in place, or copied with zeros behind the last. */
static inline const bf16 *block(const bf16 *from, ptrdiff_t *stride, ptrdiff_t i, ptrdiff_t N, ptrdiff_t D, bf16 *edge) {
    from += i * *stride;
    if (i + EDGE <= N) return from;
    for (ptrdiff_t r = 0; r < EDGE; r++)
        if (i + r < N)
            memcpy(edge + r * D, from + r * *stride, (size_t)D * 2);
        else
            memset(edge + r * D, 0, (size_t)D * 2);
    *stride = D;
    return edge;
}

/* A matrix [n, width] in panels of 32 columns or, BY_COLUMNS, its transpose; the inner axis filled up to `depth`. */
static inline void packed_all(bf16 *to, const bf16 *from, ptrdiff_t stride, int lies, ptrdiff_t N, ptrdiff_t inner,
                              ptrdiff_t depth) {
    for (ptrdiff_t n = 0; n < N; n += COLUMNS) pack(to + n * depth, from, stride, lies, n, N, 0, inner, depth);
}

/* to[D, Qp] = from[Q, D]', zeros behind the last. */
static inline void transposed(bf16 *to, const bf16 *from, ptrdiff_t stride, ptrdiff_t Q, ptrdiff_t Qp, ptrdiff_t D) {
    bf16 pairs[EDGE * EDGE] __attribute__((aligned(64)));
    for (ptrdiff_t i = 0; i < Qp; i += EDGE)
        for (ptrdiff_t d = 0; d < D; d += EDGE) {
            pack(pairs, from, stride, BY_ROWS, d, D, i, Q, EDGE);
            const bf16 *rows[16];
            for (int r = 0; r < 16; r++) rows[r] = pairs + r * 64;
            transpose_pairs(rows, 0, to + d * Qp + i, Qp);
            transpose_pairs(rows, 32, to + (d + 16) * Qp + i, Qp);
        }
}

/* The next part of some room, at a multiple of 64 bytes. */
static inline void *taken(char **from, ptrdiff_t bytes) {
    void *part = *from;
    *from += padded(bytes, 64);
    return part;
}

/* One factor pair of a product. K is rounded up to 32: A must be readable, and zero, that far. */
typedef struct {
    const bf16 *A, *B;
    ptrdiff_t lda, ldb, K;
    int lies;
} source;

/* products.c: C = A B of `main`, plus A B of `other` where it is not NULL, plus A B of `thin` where it is not NULL; of
 * that only what the dropout numbers of (seed, stream) keep, 32 x 32 block after block, where `threshold` is not 0. */
typedef struct {
    source main;
    const source *other, *thin;
    uint64_t seed, stream;
    int64_t threshold;
    void *C;
    ptrdiff_t ldc, M, N;
    int how;
    const float *shift;
    float *totals;
} wanted;
void seqtune_product(const wanted *w, int64_t threads);

/* The generator of a block of 32 rows by 32 columns, of N columns. */
static inline generator of_block(uint64_t seed, uint64_t stream, ptrdiff_t m, ptrdiff_t n, ptrdiff_t N) {
    return seeded(seed, stream, (uint64_t)(m / EDGE * ((N + EDGE - 1) / EDGE) + n / EDGE));
}

#endif
