/* Products of bf16 matrices of any number of rows: C = A B', or A B, or either plus a thin second product (LoRA's).
 *
 * oneDNN's are as fast, but it compiles a kernel for every new number of rows, at 3 to 5 milliseconds and most of a
 * megabyte each; with batches of questions and answers hardly two passes have the same number. These take any.
 *
 * A is [M, K] row by row, B [N, K] (C = A B') or [K, N] (C = A B). The inner part is in tiles.h.
 *
 * Not covered: processors without bf16 units; products_kind() says 0 there.
 */
#include "tiles.h"

#ifdef BF16_UNITS
#include <omp.h>

/* Rows of A whose sums wait, in the second-level cache, for the next run of K. */
enum { WAITING = 512 };

int seqtune_amx = 0;

/* 2 with AMX (if it is allowed and there), 1 with AVX-512 BF16, 0 with neither. */
int64_t products_kind(int64_t allow_amx) {
#ifdef __AMX_BF16__
    seqtune_amx = allow_amx != 0;
#else
    (void)allow_amx;
#endif
    return seqtune_amx ? 2 : 1;
}

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

void seqtune_product(const wanted *w, int64_t threads) {
    const source *sources[2] = {&w->main, w->other}, *thin = w->thin;
    ptrdiff_t M = w->M, N = w->N, runs = 0, panels = (N + COLUMNS - 1) / COLUMNS;
    for (int i = 0; i < 2 && sources[i]; i++) runs += (sources[i]->K + DEPTH - 1) / DEPTH;
    ptrdiff_t parts = panels >= 2 * threads ? 1 : threads; /* of the rows, where there are few panels or several runs */
    if (runs > 1 && M > parts * WAITING) parts = (M + WAITING - 1) / WAITING;
    ptrdiff_t tall = padded((M + parts - 1) / parts, ROWS), R = thin ? padded(thin->K, 32) : 0;
    float *own = w->how == EXPONENTIALS ? calloc((size_t)(threads * M * 16), sizeof(float)) : NULL; /* of each thread */
#pragma omp parallel num_threads((int)threads) if (M * N * w->main.K > 100000)
    {
        ptrdiff_t waiting = runs > 1 ? tall : 2 * ROWS, deep = R > DEPTH ? R : DEPTH;
        ptrdiff_t bytes = (DEPTH * COLUMNS + R * COLUMNS + ROWS * deep) * 2 + (waiting + 2 * ROWS) * COLUMNS * 4;
        char *room = aligned_alloc(64, (size_t)padded(bytes + 512, 64)), *from = room;
        bf16 *packed = taken(&from, DEPTH * COLUMNS * 2), *thin_packed = taken(&from, R * COLUMNS * 2);
        bf16 *edge = taken(&from, ROWS * deep * 2);
        float *sums = taken(&from, waiting * COLUMNS * 4), *updates = taken(&from, 2 * ROWS * COLUMNS * 4);
        float *mine = own ? own + omp_get_thread_num() * M * 16 : NULL;
        tiles_on();
        /* Sums that go to a thread's own totals must go to the same thread's every time. */
        omp_set_schedule(own ? omp_sched_static : omp_sched_dynamic, own ? 0 : 1);
#pragma omp for schedule(runtime)
        for (ptrdiff_t task = 0; task < panels * parts; task++) {
            ptrdiff_t n = task % panels * COLUMNS, first = task / panels * tall;
            ptrdiff_t last = first + tall < M ? first + tall : M;
            finished before = {.rows = 0};
            if (thin) pack(thin_packed, thin->B, thin->ldb, thin->lies, n, N, 0, thin->K, R);
            ptrdiff_t done = 0;
            for (ptrdiff_t i = 0, k = 0; i < 2 && sources[i]; k + DEPTH < sources[i]->K ? (k += DEPTH) : (i++, k = 0)) {
                const source *s = sources[i];
                ptrdiff_t depth = padded(s->K - k < DEPTH ? s->K - k : DEPTH, 32);
                const bf16 *panel = packed;
                if (s->lies == PACKED)
                    panel = s->B + n * s->ldb + k * COLUMNS;
                else
                    pack(packed, s->B, s->ldb, s->lies, n, N, k, s->K, depth);
                done++;
                for (ptrdiff_t m = first; m < last; m += ROWS) {
                    float *at = sums + (runs > 1 ? m - first : m % (2 * ROWS)) * COLUMNS, *update = NULL;
                    run(s, m, M, k, depth, panel, edge, at, done > 1, &before);
                    if (done < runs) continue;
                    if (thin) {
                        if (w->threshold) update = updates + m % (2 * ROWS) * COLUMNS;
                        run(thin, m, M, 0, R, thin_packed, edge, update ? update : at, !update, &before);
                    }
                    before = (finished){.sums = at, .C = w->C, .ldc = w->ldc, .how = w->how, .m = m, .n = n, .N = N,
                                        .rows = last - m < ROWS ? last - m : ROWS, .shift = w->shift, .totals = mine,
                                        .update = update, .threshold = w->threshold};
                    if (update) before.random = of_block(w->seed, w->stream, m, n, N);
                }
            }
            finish(&before, ROWS);
        }
        tiles_off();
        free(room);
    }
    if (own) {
        for (ptrdiff_t m = 0; m < M; m++)
            for (ptrdiff_t t = 0; t < threads; t++)
                w->totals[m] += _mm512_reduce_add_ps(_mm512_loadu_ps(own + (t * M + m) * 16));
        free(own);
    }
}

/* C[M, N] = A1 B1 + A2 B2 in bf16, both frozen weights W [K, N] packed, taken across. */
void two_products_across_b(const bf16 *A1, const bf16 *W1, const bf16 *A2, const bf16 *W2, bf16 *C, ptrdiff_t M,
                           ptrdiff_t N, ptrdiff_t K, int64_t threads) {
    source other = {A2, W2, K, N, K, PACKED_ACROSS};
    wanted w = {.main = {A1, W1, K, N, K, PACKED_ACROSS}, .other = &other, .C = C, .ldc = N, .M = M, .N = N,
                .how = TO_BF16};
    seqtune_product(&w, threads);
}

/* C[M, N] = A B. lies: how B lies; ldb of a packed weight is its K. how: what becomes of the sums; with EXPONENTIALS,
 * shift [M] is subtracted first and totals [M] gets the sum of each row added, which is the same every time for the same
 * number of threads. */
void product_b(const bf16 *A, ptrdiff_t lda, const bf16 *B, ptrdiff_t ldb, ptrdiff_t K, int64_t lies, void *C,
               ptrdiff_t ldc, int64_t how, ptrdiff_t M, ptrdiff_t N, const float *shift, float *totals, int64_t threads) {
    wanted w = {.main = {A, B, lda, ldb, K, (int)lies}, .C = C, .ldc = ldc, .M = M, .N = N, .how = (int)how,
                .shift = shift, .totals = totals};
    seqtune_product(&w, threads);
}
#else
int64_t products_kind(int64_t allow_amx) {
    (void)allow_amx;
    return 0;
}
#endif
