/* A frozen linear layer and its LoRA update (Hu et al. 2021, equation 3) in bf16, one call each way.
 *
 * y = x W' + scaling (dropout(x) A') B'; x [N, I], W [O, I] packed, A [r, I], B [O, r], h = dropout(x) A' [N, R], where R
 * is r rounded up to 32. The dropped input is made 32 rows at a time where it is used, and never kept; dropout's scale
 * goes into A. A, B and their gradients are float. I and O are multiples of 32.
 */
#include "tiles.h"

#ifdef BF16_UNITS
#include <omp.h>

enum { CHUNK = 128 }; /* rows whose share of A's and B's gradient is one product */

/* to[rows, width] = by * from[rows, n], zeros in the columns behind. */
static void lowered(bf16 *to, const float *from, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t width, float by) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t j = 0; j < n; j++) st_b(to + i * width + j, from[i * n + j] * by);
        for (ptrdiff_t j = n; j < width; j++) to[i * width + j] = 0;
    }
}

/* Rows i.. of 32 of x where they are kept; zeros behind the last row. */
static void dropped(bf16 *to, const bf16 *x, ptrdiff_t i, ptrdiff_t N, ptrdiff_t I, uint64_t seed, uint64_t stream,
                    int64_t threshold) {
    ptrdiff_t n = N - i < EDGE ? N - i : EDGE;
    const __m512i limit = _mm512_set1_epi16((short)threshold);
    for (ptrdiff_t j = 0; j < I; j += EDGE) {
        generator g = of_block(seed, stream, i, j, I);
        for (ptrdiff_t r = 0; r < n; r++) {
            __mmask32 keep = threshold ? kept(&g, limit) : 0xffffffffu;
            _mm512_storeu_si512(to + r * I + j, _mm512_maskz_loadu_epi16(keep, x + (i + r) * I + j));
        }
        for (ptrdiff_t r = n; r < EDGE; r++) _mm512_storeu_si512(to + r * I + j, _mm512_setzero_si512());
    }
}

static inline void rows_to_bf16(bf16 *to, ptrdiff_t stride, const float *sums, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < n; r++)
        _mm512_storeu_si512(to + r * stride, to_bf16(_mm512_load_ps(sums + r * 32), _mm512_load_ps(sums + r * 32 + 16)));
}

void lora_forward(const bf16 *x, const bf16 *W, const float *A, const float *B, bf16 *h, bf16 *y, ptrdiff_t N,
                  ptrdiff_t I, ptrdiff_t O, ptrdiff_t r, float scaling, uint64_t seed, uint64_t stream,
                  int64_t threshold, float scale, int64_t threads) {
    ptrdiff_t R = padded(r, EDGE);
    char *room = aligned_alloc(64, (size_t)padded((r * I + R * I + O * R) * 2 + 256, 64)), *at = room;
    bf16 *low = taken(&at, r * I * 2), *down = taken(&at, R * I * 2), *up = taken(&at, O * R * 2);
    lowered(low, A, r, I, I, scale);
    packed_all(down, low, I, BY_COLUMNS, r, I, I);
    lowered(up, B, O, r, R, scaling);
#pragma omp parallel num_threads((int)threads) if (N * I > 16384)
    {
        bf16 *some = aligned_alloc(64, (size_t)(EDGE * I * 2));
        float sums[BLOCKED] __attribute__((aligned(64)));
        finished nothing = {.rows = 0};
        tiles_on();
#pragma omp for
        for (ptrdiff_t i = 0; i < N; i += EDGE) {
            dropped(some, x, i, N, I, seed, stream, threshold);
            for (ptrdiff_t j = 0; j < R; j += EDGE) {
                multiply(some, I, down + j * I, I, sums, 0, &nothing);
                rows_to_bf16(h + i * R + j, R, sums, N - i < EDGE ? N - i : EDGE);
            }
        }
        tiles_off();
        free(some);
    }
    source thin = {h, up, R, R, R, BY_COLUMNS};
    wanted w = {.main = {x, W, I, I, I, PACKED}, .thin = &thin, .C = y, .ldc = O, .M = N, .N = O, .how = TO_BF16};
    seqtune_product(&w, threads);
    free(room);
}

/* gx: NULL where nobody wants it; gh [N, R] is for the work in between. */
void lora_backward(const bf16 *g, const bf16 *x, const bf16 *W, const float *A, const float *B, const bf16 *h, bf16 *gh,
                   bf16 *gx, float *gA, float *gB, ptrdiff_t N, ptrdiff_t I, ptrdiff_t O, ptrdiff_t r, float scaling,
                   uint64_t seed, uint64_t stream, int64_t threshold, float scale, int64_t threads) {
    ptrdiff_t R = padded(r, EDGE), sums_of = (I + O) * R;
    ptrdiff_t chunk = padded((N + threads - 1) / threads, EDGE);
    if (chunk > CHUNK) chunk = CHUNK;
    char *room = aligned_alloc(64, (size_t)padded((r * I + 2 * O * R) * 2 + threads * sums_of * 4 + 512, 64));
    char *at = room;
    bf16 *low = taken(&at, r * I * 2), *up = taken(&at, O * R * 2), *up_back = taken(&at, O * R * 2);
    float *all = taken(&at, threads * sums_of * 4);
    lowered(low, A, r, I, I, scale);
    lowered(up, B, O, r, R, scaling);
    packed_all(up_back, up, R, BY_ROWS, R, O, O);
    int64_t team = 1;
#pragma omp parallel num_threads((int)threads) if (N * I > 16384)
    {
#pragma omp single nowait
        team = omp_get_num_threads();
        ptrdiff_t size = chunk * I + 2 * R * chunk + chunk * EDGE + EDGE * O;
        char *own = aligned_alloc(64, (size_t)padded(size * 2 + 512, 64)), *from = own;
        bf16 *some = taken(&from, chunk * I * 2), *ht = taken(&from, R * chunk * 2), *ght = taken(&from, R * chunk * 2),
             *panel = taken(&from, chunk * EDGE * 2), *edge = taken(&from, EDGE * O * 2);
        float sums[BLOCKED] __attribute__((aligned(64)));
        float *for_A = all + omp_get_thread_num() * sums_of, *for_B = for_A + I * R;
        memset(for_A, 0, (size_t)sums_of * 4);
        finished nothing = {.rows = 0};
        tiles_on();
#pragma omp for schedule(static)
        for (ptrdiff_t c = 0; c < N; c += chunk) {
            ptrdiff_t rows = N - c < chunk ? N - c : chunk, depth = padded(rows, EDGE);
            for (ptrdiff_t i = c; i < c + rows; i += EDGE) {
                ptrdiff_t stride = O, n = N - i < EDGE ? N - i : EDGE;
                const bf16 *gi = block(g, &stride, i, N, O, edge);
                for (ptrdiff_t j = 0; j < R; j += EDGE) {
                    multiply(gi, stride, up_back + j * O, O, sums, 0, &nothing);
                    rows_to_bf16(gh + i * R + j, R, sums, n);
                }
                dropped(some + (i - c) * I, x, i, N, I, seed, stream, threshold);
            }
            transposed(ht, h + c * R, R, rows, depth, R);
            transposed(ght, gh + c * R, R, rows, depth, R);
            for (ptrdiff_t p = 0; p < I; p += EDGE) {
                pack(panel, some, I, BY_ROWS, p, I, 0, rows, depth);
                for (ptrdiff_t j = 0; j < R; j += EDGE)
                    multiply(ght + j * depth, depth, panel, depth, for_A + p * R + j * EDGE, 1, &nothing);
            }
            for (ptrdiff_t p = 0; p < O; p += EDGE) {
                pack(panel, g + c * O, O, BY_ROWS, p, O, 0, rows, depth);
                for (ptrdiff_t j = 0; j < R; j += EDGE)
                    multiply(ht + j * depth, depth, panel, depth, for_B + p * R + j * EDGE, 1, &nothing);
            }
        }
        tiles_off();
        free(own);
    }
    for (int64_t t = 1; t < team; t++)
        for (ptrdiff_t i = 0; i < sums_of; i++) all[i] += all[t * sums_of + i];
    for (ptrdiff_t p = 0; p < I; p += EDGE)
        for (ptrdiff_t j = 0; j < r; j++)
            for (ptrdiff_t c = 0; c < EDGE; c++) gA[j * I + p + c] = all[p * R + j * EDGE + c] * scale;
    const float *of_B = all + I * R;
    for (ptrdiff_t p = 0; p < O; p += EDGE)
        for (ptrdiff_t c = 0; c < EDGE; c++)
            for (ptrdiff_t j = 0; j < r; j++) gB[(p + c) * r + j] = of_B[p * R + j * EDGE + c] * scaling;
    if (gx) {
        source thin = {gh, low, R, I, r, BY_ROWS};
        wanted w = {.main = {g, W, O, I, O, PACKED_ACROSS}, .thin = &thin, .seed = seed, .stream = stream,
                    .threshold = threshold, .C = gx, .ldc = I, .M = N, .N = I, .how = TO_BF16};
        seqtune_product(&w, threads);
    }
    free(room);
}
#endif
