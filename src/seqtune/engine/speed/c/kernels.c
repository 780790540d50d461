/* The elementwise parts of a training step, each in one pass over memory.
 *
 * A transformer's step on a CPU spends more time between its matrix products than in them: dropout's random numbers,
 * norms and activations each read and write whole tensors through PyTorch's operators. Here each of them is one loop.
 *
 * Compiled on the machine that runs it (native.py). Not covered: NaN payloads (a NaN stays a NaN), rows of more than
 * 2^31 elements. The suffix of a function says what it reads and writes: _f or _b, or both for input and output: _fb
 * reads float and writes bfloat16.
 */
#include "numbers.h"

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
 * dx = rstd * (weight * dy - y / weight * mean(dy * y)) + passed, the gradient that reaches x past the norm (or NULL):
 * y is kept anyway where a layer behind the norm is adapted, x by nobody. The weight is frozen, and nowhere 0. */
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
    void rms_norm_backward_##NAME(const TY *restrict dy, const TY *restrict y, const float *restrict weight, const float *restrict rstd, const TX *passed, TX *restrict dx,           \
                                  ptrdiff_t rows, ptrdiff_t width, int64_t threads) {                                      \
        float *inverse = malloc((size_t)width * sizeof(float));                                                        \
        for (ptrdiff_t i = 0; i < width; i++) inverse[i] = 1.0f / weight[i];                                           \
        _Pragma("omp parallel for num_threads((int)threads) if (rows * width > 16384)") for (ptrdiff_t r = 0; r < rows;     \
                                                                                        r++) {                         \
            const TY *yr = y + r * width, *gr = dy + r * width;                                                        \
            TX *or = dx + r * width;                                                                                   \
            float dot = 0, s = rstd[r];                                                                                \
            for (ptrdiff_t i = 0; i < width; i++) dot += LY(gr + i) * LY(yr + i);                                      \
            float c = dot * s / (float)width;                                                                          \
            if (passed)                                                                                                \
                for (ptrdiff_t i = 0; i < width; i++)                                                                  \
                    SX(or + i, s * weight[i] * LY(gr + i) - c * LY(yr + i) * inverse[i] + LX(passed + r * width + i)); \
            else                                                                                                       \
                for (ptrdiff_t i = 0; i < width; i++)                                                                  \
                    SX(or + i, s * weight[i] * LY(gr + i) - c * LY(yr + i) * inverse[i]);                              \
        }                                                                                                              \
        free(inverse);                                                                                                 \
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
