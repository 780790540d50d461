/* What the attention kernels take.
 *
 * q, k, v: [rows, heads, positions, D], D dense, the other strides given (in elements); out and the gradients are dense
 * [rows, positions, heads, D]. bias [H, Q, K] float or NULL; mask bytes [B, Q, K] with strides over B and Q, or NULL,
 * 1 to attend; causal: key j counts for query i where j <= i + K - Q. lse [B, H, Q]: log of the sum of exponentials.
 */
#pragma once
#include "numbers.h"

typedef struct { /* what all rows and heads share; sizes in elements */
    const float *bias;
    const uint8_t *mask;
    ptrdiff_t mask_b, mask_q, H, Q, K, D, causal;
    float scaling;
    uint64_t seed, stream;
    int64_t threshold;
    float scale;
} attending;
