/* What the kernels share: bf16, the exponential, random numbers, sizes.
 *
 * Numbers are float or bfloat16 (as uint16_t); arithmetic is always float. Plain C with GCC's and Clang's vector
 * extensions, so that one source serves AVX-512, AVX2 and NEON.
 */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

/* Bytes of a vector register. (GCC takes longer vectors than the processor has, but works on them in memory, thirty
 * times slower.) */
#if defined(__AVX512F__)
enum { VECTOR = 64 };
#elif defined(__AVX__)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif
typedef float floats __attribute__((vector_size(VECTOR), aligned(4), may_alias));
enum { FLOATS = VECTOR / 4 }; /* numbers in such a vector */

static inline float ld_f(const float *p) { return *p; }
static inline void st_f(float *p, float x) { *p = x; }
static inline float ld_b(const bf16 *p) {
    uint32_t u = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline void st_b(bf16 *p, float x) { /* to the nearest, ties to even */
    uint32_t u;
    memcpy(&u, &x, 4);
    *p = (bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* As many as fill a vector, as floats. */
typedef uint16_t halves __attribute__((vector_size(VECTOR / 2), aligned(2), may_alias));
typedef uint32_t lanes __attribute__((vector_size(VECTOR), may_alias));
static inline floats lds_f(const float *p) { return *(const floats *)p; }
static inline floats lds_b(const bf16 *p) { return (floats)(__builtin_convertvector(*(const halves *)p, lanes) << 16); }

/* e^x to 1 in 10^7 for -87 <= x <= 88, clamped outside: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf). */
static inline float exp_(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* The largest of n > 0 numbers. (A plain loop is only vectorised under the promise that there are no NaNs.) */
#define LARGEST(NAME, T, LD)                                                                                           \
    static inline float NAME(const T *x, ptrdiff_t n) {                                                                \
        float m[16];                                                                                                   \
        ptrdiff_t i = 0;                                                                                               \
        for (int k = 0; k < 16; k++) m[k] = LD(x);                                                                     \
        for (; i + 16 <= n; i += 16)                                                                                   \
            for (int k = 0; k < 16; k++) {                                                                             \
                float v = LD(x + i + k);                                                                               \
                m[k] = v > m[k] ? v : m[k];                                                                            \
            }                                                                                                          \
        float top = m[0];                                                                                              \
        for (int k = 1; k < 16; k++) top = m[k] > top ? m[k] : top;                                                    \
        for (; i < n; i++) top = LD(x + i) > top ? LD(x + i) : top;                                                    \
        return top;                                                                                                    \
    }
LARGEST(largest_f, float, ld_f)
LARGEST(largest_b, bf16, ld_b)

/* ---- random numbers ------------------------------------------------------------------------------------------------
 * xoshiro128++ (Blackman and Vigna, 2021), 16 streams side by side, 32 decisions of 16 bits a draw. A block of numbers
 * is found by (seed, stream, block) alone: the backward pass draws the forward pass's numbers again instead of keeping
 * them, threads need no state, and a resumed run draws what the first one would have drawn. */
enum { STREAMS = 16, PARTS = STREAMS * 4 / VECTOR }; /* the streams, in as many registers as it takes */
typedef struct {
    lanes s0[PARTS], s1[PARTS], s2[PARTS], s3[PARTS];
} generator;

enum { BLOCK = 1024, PER_DRAW = 32 }; /* elements of a flat tensor that share a generator; decisions of a draw */

static inline uint64_t mix64(uint64_t x) { /* SplitMix64's finalizer */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline lanes mix32(lanes x) { /* lowbias32 (Wellons) */
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline generator seeded(uint64_t seed, uint64_t stream, uint64_t block) {
    static const uint32_t lane[STREAMS] __attribute__((aligned(64))) = {0, 1, 2,  3,  4,  5,  6,  7,
                                                                        8, 9, 10, 11, 12, 13, 14, 15};
    uint64_t key = mix64(mix64(mix64(seed + 0x9e3779b97f4a7c15ull) + stream) + block);
    uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    generator g;
    for (int p = 0; p < PARTS; p++) {
        lanes at = *(const lanes *)(lane + p * (STREAMS / PARTS)) * 4u + low;
        g.s0[p] = mix32(mix32(at) ^ high);
        g.s1[p] = mix32(mix32(at + 1u) ^ high);
        g.s2[p] = mix32(mix32(at + 2u) ^ high);
        g.s3[p] = mix32(mix32(at + 3u) ^ high) | 1u;
    }
    return g;
}

/* The next numbers of one part of the streams. */
static inline lanes next(generator *g, int p) {
    lanes sum = g->s0[p] + g->s3[p];
    lanes result = ((sum << 7) | (sum >> 25)) + g->s0[p];
    lanes t = g->s1[p] << 9;
    g->s2[p] ^= g->s0[p];
    g->s3[p] ^= g->s1[p];
    g->s1[p] ^= g->s2[p];
    g->s0[p] ^= g->s3[p];
    g->s2[p] ^= t;
    g->s3[p] = (g->s3[p] << 11) | (g->s3[p] >> 21);
    return result;
}

static inline void draw(generator *g, uint16_t *out) {
    for (int p = 0; p < PARTS; p++) {
        lanes result = next(g, p);
        memcpy(out + p * (PER_DRAW / PARTS), &result, sizeof result);
    }
}

static inline void draw_many(generator *g, uint16_t *out, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += PER_DRAW) draw(g, out + i);
}

static inline ptrdiff_t padded(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }
