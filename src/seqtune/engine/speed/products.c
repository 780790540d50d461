/* Products of bf16 matrices of any number of rows: C = A B', or A B, or either plus a thin second product (LoRA's).
 *
 * oneDNN's are as fast, but it compiles a kernel for every new number of rows, at 3 to 5 milliseconds and most of a
 * megabyte each; with batches of questions and answers hardly two passes have the same number. These take any.
 *
 * A is [M, K] row by row, B [N, K] (C = A B') or [K, N] (C = A B); 32 columns of B at a time are packed as the units
 * want them: pairs of neighbours along K side by side, column after column. On processors with AMX the work is done in
 * 2 x 2 tiles of 16 x 16, else with AVX-512's bf16 dot products, 12 rows by 32 columns. Sums are float.
 *
 * Not covered: processors without either; products_kind() says 0 there.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <omp.h>

/* Columns of a panel of B; rows worked on together; longest run of K (a panel of it fills two thirds of the first-level
 * cache); rows of A whose sums wait, in the second-level cache, for the next run. */
enum { COLUMNS = 32, ROWS = 32, DEPTH = 512, WAITING = 512 };

/* How B lies: [N, K]; [K, N]; or a frozen weight W [N, K] packed once (pack_weight), for A W' and for A W. */
enum { BY_COLUMNS = 0, BY_ROWS = 1, PACKED = 2, PACKED_ACROSS = 3 };

static int use_amx = 0;

/* 2 with AMX (if it is allowed and there), 1 with AVX-512 BF16, 0 with neither. */
int64_t products_kind(int64_t allow_amx) {
#ifdef __AMX_BF16__
    use_amx = allow_amx != 0;
#else
    (void)allow_amx;
#endif
    return use_amx ? 2 : 1;
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
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (ptrdiff_t j = 0; j < depth; j += 2) {
        const bf16 *row = B + (k + j) * ldb + n;
        __m512i a = k + j < K ? _mm512_maskz_loadu_epi16(there, row) : _mm512_setzero_si512();
        __m512i b = k + j + 1 < K ? _mm512_maskz_loadu_epi16(there, row + ldb) : _mm512_setzero_si512();
        _mm512_storeu_si512(packed + j * COLUMNS, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(packed + j * COLUMNS + 32, _mm512_permutex2var_epi16(a, high, b));
    }
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
} finished;

/* What becomes of the sums: C as bf16, as float, added to C, or their exponentials as bf16. */
enum { TO_BF16 = 0, TO_FLOAT = 1, ADD_TO_FLOAT = 2, EXPONENTIALS = 3 };

/* e^x for x <= 88, to 1 in 10^7: kernels.c's exp_ with this processor's own scaling. */
static inline __m512 exponential(__m512 x) {
    x = _mm512_min_ps(_mm512_set1_ps(88.3f), x); /* this way round a NaN stays one */
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
    if (use_amx) {
        multiply_amx(A, lda, packed, depth, sums, add, before);
        return;
    }
#endif
    finish(before, ROWS);
    multiply_dots(A, lda, packed, depth, sums, add);
}

static inline ptrdiff_t up(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }

/* One source of a product. K is rounded up to 32: A must be readable, and zero, that far. */
typedef struct {
    const bf16 *A, *B;
    ptrdiff_t lda, ldb, K;
    int lies;
} source;

/* The sums of rows m.. of A over one packed run; the last rows are copied where fewer than 32 are left. */
static inline void run(const source *s, ptrdiff_t m, ptrdiff_t M, ptrdiff_t k, ptrdiff_t depth, const bf16 *packed,
                       bf16 *edge, float *sums, int add, finished *before) {
    const bf16 *A = s->A + m * s->lda + k;
    if (m + ROWS <= M) {
        multiply(A, s->lda, packed, depth, sums, add, before);
        return;
    }
    for (ptrdiff_t r = 0; r < ROWS; r++)
        if (m + r < M)
            memcpy(edge + r * depth, A + r * s->lda, (size_t)depth * 2);
        else
            memset(edge + r * depth, 0, (size_t)depth * 2);
    multiply(edge, depth, packed, depth, sums, add, before);
}

/* W [N, K], K a multiple of 32, as panels of packed[K / 2][32][2] for 32 columns each, the last filled with zeros. */
void pack_weight(const bf16 *W, bf16 *packed, ptrdiff_t N, ptrdiff_t K, int64_t threads) {
#pragma omp parallel for num_threads((int)threads)
    for (ptrdiff_t n = 0; n < N; n += COLUMNS) pack(packed + n * K, W, K, BY_COLUMNS, n, N, 0, K, K);
}

/* C[M, N] = A1 B1 (+ A2 B2 where A2 is not NULL). lies: how B lies; ldb of a packed weight is its K. how: what becomes
 * of the sums; with EXPONENTIALS, shift [M] is subtracted first and totals [M] gets the sum of each row added, which is
 * the same every time for the same number of threads. */
void product_b(const bf16 *A1, ptrdiff_t lda1, const bf16 *B1, ptrdiff_t ldb1, ptrdiff_t K1, int64_t lies1,
               const bf16 *A2, ptrdiff_t lda2, const bf16 *B2, ptrdiff_t ldb2, ptrdiff_t K2, int64_t lies2, void *C,
               ptrdiff_t ldc, int64_t how, ptrdiff_t M, ptrdiff_t N, const float *shift, float *totals, int64_t threads) {
    source sources[2] = {{A1, B1, lda1, ldb1, K1, (int)lies1}, {A2, B2, lda2, ldb2, K2, (int)lies2}};
    int count = A2 ? 2 : 1;
    ptrdiff_t runs = 0; /* of K, over both sources */
    for (int i = 0; i < count; i++) runs += (sources[i].K + DEPTH - 1) / DEPTH;
    ptrdiff_t panels = (N + COLUMNS - 1) / COLUMNS;
    ptrdiff_t parts = panels >= 2 * threads ? 1 : threads; /* of the rows, where there are few panels or several runs */
    if (runs > 1 && M > parts * WAITING) parts = (M + WAITING - 1) / WAITING;
    ptrdiff_t tall = up((M + parts - 1) / parts, ROWS);
    float *own = how == EXPONENTIALS ? calloc((size_t)(threads * M * 16), sizeof(float)) : NULL; /* of each thread */
#pragma omp parallel num_threads((int)threads) if (M * N * K1 > 100000)
    {
        bf16 *packed = aligned_alloc(64, DEPTH * COLUMNS * 2), *edge = aligned_alloc(64, ROWS * DEPTH * 2);
        float *sums = aligned_alloc(64, (size_t)(runs > 1 ? tall : 2 * ROWS) * COLUMNS * 4);
#ifdef __AMX_BF16__
        if (use_amx) {
            struct {
                uint8_t palette, start, reserved[14];
                uint16_t bytes[16];
                uint8_t rows[16];
            } tiles = {.palette = 1};
            for (int i = 0; i < 8; i++) tiles.bytes[i] = 64, tiles.rows[i] = 16;
            _tile_loadconfig(&tiles);
        }
#endif
        float *mine = own ? own + omp_get_thread_num() * M * 16 : NULL;
        /* Sums that go to a thread's own totals must go to the same thread's every time. */
        omp_set_schedule(own ? omp_sched_static : omp_sched_dynamic, own ? 0 : 1);
#pragma omp for schedule(runtime)
        for (ptrdiff_t task = 0; task < panels * parts; task++) {
            ptrdiff_t n = task % panels * COLUMNS, first = task / panels * tall;
            ptrdiff_t last = first + tall < M ? first + tall : M, done = 0;
            finished before = {.rows = 0};
            for (int i = 0; i < count; i++) {
                const source *s = &sources[i];
                for (ptrdiff_t k = 0; k < s->K; k += DEPTH, done++) {
                    ptrdiff_t depth = up(s->K - k < DEPTH ? s->K - k : DEPTH, 32);
                    const bf16 *panel = packed;
                    if (s->lies == PACKED)
                        panel = s->B + n * s->ldb + k * COLUMNS;
                    else
                        pack(packed, s->B, s->ldb, s->lies, n, N, k, s->K, depth);
                    for (ptrdiff_t m = first; m < last; m += ROWS) {
                        float *at = sums + (runs > 1 ? m - first : m % (2 * ROWS)) * COLUMNS;
                        run(s, m, M, k, depth, panel, edge, at, done > 0, &before);
                        if (done == runs - 1)
                            before = (finished){at, C, ldc, (int)how, m, n, N, 0, last - m < ROWS ? last - m : ROWS,
                                                shift, mine};
                    }
                }
            }
            finish(&before, ROWS);
        }
#ifdef __AMX_BF16__
        if (use_amx) _tile_release();
#endif
        free(packed);
        free(edge);
        free(sums);
    }
    if (own) {
        for (ptrdiff_t m = 0; m < M; m++)
            for (ptrdiff_t t = 0; t < threads; t++)
                totals[m] += _mm512_reduce_add_ps(_mm512_loadu_ps(own + (t * M + m) * 16));
        free(own);
    }
}
#else
int64_t products_kind(int64_t allow_amx) {
    (void)allow_amx;
    return 0;
}
#endif
