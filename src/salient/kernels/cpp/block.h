// The two halves of a decoder block, for rows of several sequences at once:
//
//     hidden += o(attention(rope(norm(q)), rope(norm(k)), v))      of q, k, v = qkv(norm(hidden))
//     hidden += down(act(gate) * up)                               of gate, up = gate_up(norm(hidden))
//
// Every function is called by all threads of one parallel region. Loops over rows need no barrier:
// each thread has the same rows in all of them.

#pragma once

#include "attention.h"

namespace salient {

enum Act : int32_t { SILU = 0, GELU_TANH = 1, GELU = 2 };

struct Mlp {
    Norm before, after;
    Linear gate_up, down;  // gate_up: [2 * inner, width], gate first
    int64_t inner;  // 0: no MLP here, the caller computes it
    int32_t act;
    float residual;
};

inline void norm_rows(const Norm& norm, const float* x, int64_t rows, int64_t width, float* to) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) {
        if (norm.weight) rms_norm(norm, x + row * width, width, to + row * width);
        else std::memcpy(to + row * width, x + row * width, width * sizeof(float));
    }
}

// hidden += residual * norm(added)
inline void add_rows(const Norm& norm, float* added, int64_t rows, int64_t width, float residual,
                     float* hidden) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) {
        float* from = added + row * width;
        if (norm.weight) rms_norm(norm, from, width, from);
        for (int64_t i = 0; i < width; i++) hidden[row * width + i] += residual * from[i];
    }
}

// Rows of q, k, v to rows of the attention output: the first heads * head_dim columns of each.
inline void gather_rows(const float* from, int64_t rows, int64_t stride, int64_t columns,
                        float* to) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++)
        std::memcpy(to + row * columns, from + row * stride, columns * sizeof(float));
}

inline void attention_half(const Attention& a, const Batch& b, int threads, int thread) {
    const int64_t columns = (a.heads + 2 * a.kv_heads) * a.head_dim;
    const int64_t inner = a.heads * a.head_dim;
    norm_rows(a.before, b.hidden, b.rows, b.width, b.narrow);
    multiply(a.qkv, b.narrow, b.width, b.rows, b.wide, columns, b.room);
    if (a.kv_kind == BFLOAT16) store_and_attend<BFloat>(a, b, threads, thread);
    else if (a.kv_kind == FLOAT16) store_and_attend<Half>(a, b, threads, thread);
    else store_and_attend<float>(a, b, threads, thread);
    gather_rows(b.wide, b.rows, columns, inner, b.narrow);
    multiply(a.o, b.narrow, inner, b.rows, b.wide, b.width, b.room);
    add_rows(a.after, b.wide, b.rows, b.width, a.residual, b.hidden);
}

inline float activated(float x, int32_t act) {
    if (act == SILU) {  // x / (1 + e^-x), with e to a negative power only
        const float e = exp_of(x < 0 ? x : -x);
        return x * (x < 0 ? e : 1.0f) / (1.0f + e);
    }
    if (act == GELU_TANH) {
        return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    }
    return 0.5f * x * (1.0f + std::erf(x * 0.7071067812f));
}

inline void gate_rows(const Mlp& m, int64_t rows, const float* gate_up, float* to) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * m.inner, *up = gate + m.inner;
        float* out = to + row * m.inner;
        if (m.act == SILU) {
#pragma omp simd
            for (int64_t i = 0; i < m.inner; i++) out[i] = activated(gate[i], SILU) * up[i];
        } else {
            for (int64_t i = 0; i < m.inner; i++) out[i] = activated(gate[i], m.act) * up[i];
        }
    }
}

inline void mlp_half(const Mlp& m, const Batch& b) {
    norm_rows(m.before, b.hidden, b.rows, b.width, b.narrow);
    multiply(m.gate_up, b.narrow, b.width, b.rows, b.wide, 2 * m.inner, b.room);
    gate_rows(m, b.rows, b.wide, b.narrow);
    multiply(m.down, b.narrow, m.inner, b.rows, b.wide, b.width, b.room);
    add_rows(m.after, b.wide, b.rows, b.width, m.residual, b.hidden);
}

struct Block {
    Attention attention;
    Mlp mlp;
};

inline void run_block(const Block& block, const Batch& b, int threads, int thread) {
    attention_half(block.attention, b, threads, thread);
    if (block.mlp.inner) mlp_half(block.mlp, b);
}

}  // namespace salient
