/* decoder.c's step, for one type T of weights, keys and values; LD and ST read and write a T; NAME ends a function's name. */

/* The same rows as a product takes them: in T, and normed; without `before` the rows themselves are normed too. */
static void NAME(settle)(const decoder *d, const norm *w, float *x, T *to, ptrdiff_t rows) {
    ptrdiff_t across = padded(d->width, 32);
#pragma omp for schedule(static)
    for (ptrdiff_t r = 0; r < rows; r++) {
        float y[d->width];
        normed(w, x + r * d->width, y, d->width, (float)d->eps);
        if (!d->before) memcpy(x + r * d->width, y, (size_t)d->width * sizeof(float));
        for (ptrdiff_t i = 0; i < d->width; i++) ST(to + r * across + i, y[i]);
    }
}

/* to = softmax(q k' + distance) v for one head of one row. keys and values: entry t of beam b lies b * apart + t * size
 * further on. Heads of 64, which nearly all models have, are kept in registers. */
static void NAME(attend)(const float *q, const T *keys, const T *values, const int32_t *from, ptrdiff_t mine,
                         ptrdiff_t apart, ptrdiff_t length, ptrdiff_t size, float scale, const float *distance,
                         ptrdiff_t reach, float *scores, T *to) {
    enum { HEAD = 64, WHOLE = HEAD / FLOATS };
    floats asked[WHOLE];
    if (size == HEAD)
        for (int v = 0; v < WHOLE; v++) asked[v] = *(const floats *)(q + v * FLOATS);
    for (ptrdiff_t t = 0; t < length; t++) {
        const T *k = keys + (from ? from[t] : mine) * apart + t * size;
        float s = 0;
        if (size == HEAD) {
            floats parts = asked[0] * NAME(lds)(k);
            for (int v = 1; v < WHOLE; v++) parts += asked[v] * NAME(lds)(k + v * FLOATS);
            for (int i = 0; i < FLOATS; i++) s += parts[i];
        } else
            for (ptrdiff_t i = 0; i < size; i++) s += q[i] * LD(k + i);
        ptrdiff_t back = length - 1 - t;
        scores[t] = s * scale + (distance ? distance[back < reach ? back : reach - 1] : 0.0f);
    }
    float top = largest_f(scores, length), sum = 0;
    for (ptrdiff_t t = 0; t < length; t++) {
        scores[t] = exp_(scores[t] - top);
        sum += scores[t];
    }
    float out[size], share = 1.0f / sum;
    if (size == HEAD) {
        floats found[WHOLE];
        for (int v = 0; v < WHOLE; v++) found[v] = (floats){0};
        for (ptrdiff_t t = 0; t < length; t++) {
            const T *entry = values + (from ? from[t] : mine) * apart + t * size;
            for (int v = 0; v < WHOLE; v++) found[v] += scores[t] * share * NAME(lds)(entry + v * FLOATS);
        }
        for (int v = 0; v < WHOLE; v++) *(floats *)(out + v * FLOATS) = found[v];
    } else {
        memset(out, 0, (size_t)size * sizeof(float));
        for (ptrdiff_t t = 0; t < length; t++) {
            const T *entry = values + (from ? from[t] : mine) * apart + t * size;
            float p = scores[t] * share;
            for (ptrdiff_t i = 0; i < size; i++) out[i] += p * LD(entry + i);
        }
    }
    for (ptrdiff_t i = 0; i < size; i++) ST(to + i, out[i]);
}

/* One step of all rows: x [rows, width] the tokens' embeddings, logits [rows, vocabulary]; every row's `at` goes on. */
void NAME(decoder_step)(const decoder *d, row *rows, const room *work, float *logits, ptrdiff_t count, int64_t threads) {
    ptrdiff_t width = d->width, inner = d->inner, size = d->size, across = padded(width, 32), wide = work->widest;
    float *x = work->x, *u = work->wide;
    T *h = work->normed, *a = work->attended, *g = work->gated;
#pragma omp parallel num_threads((int)threads)
    {
        float *scores = work->scores + omp_get_thread_num() * work->longest;
        for (ptrdiff_t l = 0; l < d->count; l++) {
            const layer *w = d->layers + l;
            ptrdiff_t hidden = w->down.K, deep = padded(hidden, 32), inner_across = padded(inner, 32);
            NAME(settle)(d, w->norms, x, h, count);
            NAME(product_few)(&w->own, h, across, u, wide, 0, count);
#pragma omp for collapse(2) schedule(static)
            for (ptrdiff_t r = 0; r < count; r++)
                for (ptrdiff_t head = 0; head < d->heads; head++) {
                    const row *who = rows + r;
                    ptrdiff_t half = who->longest * inner, apart = d->count * 2 * half;
                    T *keys = (T *)who->cache + l * 2 * half + head * who->longest * size, *values = keys + half;
                    const float *mine = u + r * wide + head * size;
                    ptrdiff_t here = who->beam * apart + who->at * size;
                    for (ptrdiff_t i = 0; i < size; i++) ST(keys + here + i, mine[inner + i]);
                    for (ptrdiff_t i = 0; i < size; i++) ST(values + here + i, mine[2 * inner + i]);
                    if (who->from) who->from[who->at] = (int32_t)who->beam;
                    NAME(attend)(mine, keys, values, who->from, who->beam, apart, who->at + 1, size, (float)d->scale,
                                 w->distance ? w->distance + head * d->reach : NULL, d->reach, scores,
                                 a + r * inner_across + head * size);
                }
            NAME(product_few)(&w->own_out, a, inner_across, x, width, 1, count);
            NAME(settle)(d, &w->norms[1], x, h, count);
            NAME(product_few)(&w->query, h, across, u, wide, 0, count);
#pragma omp for collapse(2) schedule(static)
            for (ptrdiff_t r = 0; r < count; r++)
                for (ptrdiff_t head = 0; head < d->heads; head++) {
                    const row *who = rows + r;
                    const T *keys = (const T *)who->memory + who->source * (l * 2 * inner + head * size);
                    NAME(attend)(u + r * wide + head * size, keys, keys + who->source * inner, NULL, 0, 0, who->source,
                                 size, (float)d->scale, NULL, 0, scores, a + r * inner_across + head * size);
                }
            NAME(product_few)(&w->other_out, a, inner_across, x, width, 1, count);
            NAME(settle)(d, &w->norms[2], x, h, count);
            NAME(product_few)(&w->up, h, across, u, wide, 0, count);
#pragma omp for schedule(static)
            for (ptrdiff_t r = 0; r < count; r++) {
                float *up = u + r * wide, *gate = up + hidden;
                activate(up, hidden, d->activation);
                for (ptrdiff_t i = 0; i < hidden; i++) ST(g + r * deep + i, d->gated ? up[i] * gate[i] : up[i]);
            }
            NAME(product_few)(&w->down, g, deep, x, width, 1, count);
        }
        NAME(settle)(d, &d->last, x, h, count);
        NAME(product_few)(&d->head, h, across, logits, d->head.N, 0, count);
    }
    for (ptrdiff_t r = 0; r < count; r++) rows[r].at++;
}

/* y[M, N] = x[M, K up to 32s] W' + b; in bf16 x can be read up to the next 32 rows. */
void NAME(dense_rows)(const dense *w, const T *x, float *y, ptrdiff_t M, int64_t threads) {
#pragma omp parallel num_threads((int)threads)
    NAME(product_few)(w, x, padded(w->K, 32), y, w->N, 0, M);
}
