/* Products of a few rows with a frozen weight: y = x W' + b, the work of a decoder that writes one token at a time.
 *
 * The weight streams past once, in panels of 32 columns, and all rows are worked on while a panel is near. Every row's sum
 * is taken in the same order, however many rows there are: what a row comes to does not depend on its company, bit for bit.
 *
 * Packed weights: float [panel][K][32]; bf16 [panel][K / 2][32][2] (as tiles.h takes them), K filled up to 32 with zeros.
 * Functions here are called by all threads of a team, which share the panels out and wait for each other at the end.
 */
#pragma once
#include "numbers.h"
#include "tiles.h"

enum { PANEL = 32 };

/* A linear layer W [N, K], packed; bias [N] or NULL. */
typedef struct {
    const void *W;
    const float *bias;
    int64_t N, K;
} dense;

/* How many rows are worked on at once, on how many columns: their sums have to stay in the 32 or 16 registers. */
#ifdef __AVX512F__
enum { MOST = 12, ACROSS = 32 };
#else
enum { MOST = 6, ACROSS = 16 };
#endif

/* sums[rows, 32] of `across` columns of a panel. */
static inline __attribute__((always_inline)) void rows_f(const float *A, ptrdiff_t lda, const float *panel, ptrdiff_t K,
                                                         float *sums, const int rows, const int across) {
    floats total[MOST][PANEL / FLOATS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < across / FLOATS; v++) total[r][v] = (floats){0};
    for (ptrdiff_t k = 0; k < K; k++) {
        floats column[PANEL / FLOATS];
        for (int v = 0; v < across / FLOATS; v++) column[v] = *(const floats *)(panel + k * PANEL + v * FLOATS);
        for (int r = 0; r < rows; r++) {
            float x = A[r * lda + k];
            for (int v = 0; v < across / FLOATS; v++) total[r][v] += x * column[v];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < across / FLOATS; v++) *(floats *)(sums + r * PANEL + v * FLOATS) = total[r][v];
}

/* sums[rows, 32] of a panel. Few rows take the whole panel in one pass, as far as registers go: it comes from memory. */
static void block_f(const float *A, ptrdiff_t lda, const float *panel, ptrdiff_t K, float *sums, ptrdiff_t rows) {
    switch (rows) {
#define WHOLE(R)                                                                                                       \
    case R: rows_f(A, lda, panel, K, sums, R, PANEL); break;
#define PARTS(R)                                                                                                       \
    case R:                                                                                                            \
        for (int n = 0; n < PANEL; n += ACROSS) rows_f(A, lda, panel + n, K, sums + n, R, ACROSS);                     \
        break;
        WHOLE(1) WHOLE(2) WHOLE(3) PARTS(4) PARTS(5) PARTS(6)
#ifdef __AVX512F__
        PARTS(7) PARTS(8) PARTS(9) PARTS(10) PARTS(11) PARTS(12)
#endif
#undef WHOLE
#undef PARTS
    }
}

/* C[rows, N] = (or, `add`, +=) the sums of one panel, whose first column is n. */
static inline void put(const dense *w, ptrdiff_t n, const float *sums, ptrdiff_t rows, float *C, ptrdiff_t ldc, int add) {
    ptrdiff_t there = w->N - n < PANEL ? w->N - n : PANEL;
    for (ptrdiff_t r = 0; r < rows; r++) {
        float *c = C + r * ldc + n;
        const float *s = sums + r * PANEL;
        if (w->bias && add)
            for (ptrdiff_t j = 0; j < there; j++) c[j] += s[j] + w->bias[n + j];
        else if (w->bias)
            for (ptrdiff_t j = 0; j < there; j++) c[j] = s[j] + w->bias[n + j];
        else if (add)
            for (ptrdiff_t j = 0; j < there; j++) c[j] += s[j];
        else
            for (ptrdiff_t j = 0; j < there; j++) c[j] = s[j];
    }
}

/* C[M, N] (+)= A[M, K] W' + b */
static void product_few_f(const dense *w, const float *A, ptrdiff_t lda, float *C, ptrdiff_t ldc, int add, ptrdiff_t M) {
    float sums[MOST * PANEL] __attribute__((aligned(64)));
#pragma omp for schedule(dynamic, 2)
    for (ptrdiff_t n = 0; n < w->N; n += PANEL)
        for (ptrdiff_t m = 0; m < M; m += MOST) {
            ptrdiff_t rows = M - m < MOST ? M - m : MOST;
            block_f(A + m * lda, lda, (const float *)w->W + n * w->K, w->K, sums, rows);
            put(w, n, sums, rows, C + m * ldc, ldc, add);
        }
}

#ifdef BF16_UNITS
/* How far ahead of the tiles, along the inner axis, a weight is fetched: tiles alone do not keep the memory busy. */
enum { AHEAD = 64 };

/* sums[rows, 32] of 32 rows of A (those behind the last are read, whatever they hold). */
static inline void block_b(const bf16 *A, ptrdiff_t lda, const bf16 *panel, ptrdiff_t depth, float *sums,
                           ptrdiff_t rows) {
#ifdef __AMX_BF16__
    if (seqtune_amx) {
        const int both = rows > 16;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (ptrdiff_t k = 0; k < depth; k += 32) {
            for (int line = 0; line < 32; line++)
                _mm_prefetch((const char *)(panel + (k + AHEAD) * COLUMNS + line * 32), _MM_HINT_T0);
            _tile_loadd(4, A + k, lda * 2);
            _tile_loadd(6, panel + k * COLUMNS, 128);
            _tile_loadd(7, panel + k * COLUMNS + 32, 128);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (both) {
                _tile_loadd(5, A + 16 * lda + k, lda * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, sums, 128);
        _tile_stored(1, sums + 16, 128);
        if (both) {
            _tile_stored(2, sums + 512, 128);
            _tile_stored(3, sums + 528, 128);
        }
        return;
    }
#endif
    for (ptrdiff_t i = 0; i < rows; i += DOTS) {
        __m512 c[DOTS][2];
        for (int r = 0; r < DOTS; r++) c[r][0] = c[r][1] = _mm512_setzero_ps();
        for (ptrdiff_t k = 0; k < depth; k += 2) {
            __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel + k * COLUMNS);
            __m512bh b1 = (__m512bh)_mm512_loadu_si512(panel + k * COLUMNS + 32);
            for (int r = 0; r < DOTS; r++) {
                int32_t two;
                memcpy(&two, A + (i + r) * lda + k, 4);
                c[r][0] = _mm512_dpbf16_ps(c[r][0], (__m512bh)_mm512_set1_epi32(two), b0);
                c[r][1] = _mm512_dpbf16_ps(c[r][1], (__m512bh)_mm512_set1_epi32(two), b1);
            }
        }
        for (int r = 0; r < DOTS; r++)
            for (int half = 0; half < 2; half++) _mm512_storeu_ps(sums + (i + r) * 32 + half * 16, c[r][half]);
    }
}

static void product_few_b(const dense *w, const bf16 *A, ptrdiff_t lda, float *C, ptrdiff_t ldc, int add, ptrdiff_t M) {
    float sums[ROWS * COLUMNS] __attribute__((aligned(64)));
    ptrdiff_t depth = padded(w->K, 32);
    tiles_on();
#pragma omp for schedule(dynamic, 2)
    for (ptrdiff_t n = 0; n < w->N; n += PANEL)
        for (ptrdiff_t m = 0; m < M; m += ROWS) {
            ptrdiff_t rows = M - m < ROWS ? M - m : ROWS;
            block_b(A + m * lda, lda, (const bf16 *)w->W + n * depth, depth, sums, rows);
            put(w, n, sums, rows, C + m * ldc, ldc, add);
        }
    tiles_off();
}
#endif
