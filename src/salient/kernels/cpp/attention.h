// Attention over a cache of keys and values, for rows of several sequences at once. Each row has its
// sequence's slot in the cache and its position there. Functions of a whole batch are called by all
// threads of one parallel region.

#pragma once

#include "linear.h"

namespace salient {

struct Norm {  // x / sqrt(mean(x^2) + eps) * weight; no norm where weight is null
    const float* weight;
    float eps;
};

struct Attention {
    Norm before, after, q_norm, k_norm;  // after: of what is added to the hidden states
    Linear qkv, o;
    int64_t heads, kv_heads, head_dim, rotary_dim;
    int64_t window;   // positions that a row attends to, including itself; 0: all
    float scaling;    // of the scores
    float residual;   // of what is added to the hidden states
    float softcap;    // of the scores: cap * tanh(score / cap); 0: none
    const float *cos, *sin;  // [positions, rotary_dim / 2], of rotate-half pairs; null: none
    void *keys, *values;     // [slots, kv_heads, capacity, head_dim]
    int64_t capacity;
    int32_t kv_kind;  // Kind of keys and values
};

// Rows of hidden states [rows, width], and scratch memory.
struct Batch {
    float* hidden;
    int64_t rows, width;
    const int64_t *slots, *positions;  // [rows]
    float *wide, *narrow, *scores;
    Rounded room;
};

template <typename T>
inline T narrowed(float f) {
    return T(f);
}
template <>
inline BFloat narrowed<BFloat>(float f) {
    return BFloat::of(f);
}
template <>
inline Half narrowed<Half>(float f) {  // saturates
    return Half(f > 65504.0f ? 65504.0f : f < -65504.0f ? -65504.0f : f);
}

inline void rms_norm(const Norm& norm, const float* x, int64_t width, float* to) {
    float lanes[LANES] = {}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += x[i + l] * x[i + l];
    for (; i < width; i++) total += x[i] * x[i];
    for (int l = 0; l < LANES; l++) total += lanes[l];
    const float scale = 1.0f / std::sqrt(total / float(width) + norm.eps);
    for (i = 0; i < width; i++) to[i] = x[i] * scale * norm.weight[i];
}

// Norm and rotary embedding of one head, in place. Pairs are (i, i + rotary_dim / 2).
inline void rotate_head(const Attention& a, const Norm& norm, int64_t position, float* head) {
    if (norm.weight) rms_norm(norm, head, a.head_dim, head);
    if (!a.cos) return;
    const int64_t half = a.rotary_dim / 2;
    const float *cos = a.cos + position * half, *sin = a.sin + position * half;
    for (int64_t i = 0; i < half; i++) {
        const float x = head[i], y = head[i + half];
        head[i] = x * cos[i] - y * sin[i];
        head[i + half] = y * cos[i] + x * sin[i];
    }
}

template <typename T>
inline void rotate_and_store(const Attention& a, const Batch& b, float* qkv) {
    const int64_t all = a.heads + 2 * a.kv_heads;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < b.rows * all; i++) {
        const int64_t row = i / all, head = i % all, position = b.positions[row];
        float* x = qkv + i * a.head_dim;
        if (head < a.heads + a.kv_heads)
            rotate_head(a, head < a.heads ? a.q_norm : a.k_norm, position, x);
        if (head < a.heads) continue;
        const int64_t kv = (head - a.heads) % a.kv_heads;
        T* cache = (T*)(head < a.heads + a.kv_heads ? a.keys : a.values);
        cache += ((b.slots[row] * a.kv_heads + kv) * a.capacity + position) * a.head_dim;
        for (int64_t d = 0; d < a.head_dim; d++) cache[d] = narrowed<T>(x[d]);
    }
}

// e^x for x <= 0, relative error below 3e-7: 2^i times a polynomial of the rest (Cephes expf).
inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float whole = std::floor(x * 1.44269504f + 0.5f);
    const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    const int32_t bits = (int32_t(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// One head's scores to weights that sum to 1, in place.
inline void softmax(float* scores, int64_t count) {
    float top = scores[0], total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 1; i < count; i++) top = scores[i] > top ? scores[i] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        scores[i] = exp_of(scores[i] - top);
        total += scores[i];
    }
    const float share = 1.0f / total;
    for (int64_t i = 0; i < count; i++) scores[i] *= share;
}

// Scores of R heads q [R, dim] with the keys of four positions, to [R, stride]. With three heads,
// 12 sums, 3 queries and a key fill AVX2's 16 registers.
template <int R, typename T>
inline void score_four(const T* keys, const float* q, int64_t dim, float scaling, float* to,
                       int64_t stride) {
    Vector sum[R][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++) sum[r][o] = no_vector();
    int64_t i = 0;
    for (; i + WIDE <= dim; i += WIDE) {
        Vector in[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            in[r] = vector_at(q + r * dim + i);
            pin_register(in[r]);
        }
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++) {
            const Vector key = vector_at(keys + o * dim + i);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) sum[r][o] = fused(sum[r][o], key, in[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) totals(sum[r], scaling, to + r * stride);
    for (; i < dim; i++)
        for (int r = 0; r < R; r++)
            for (int o = 0; o < 4; o++)
                to[r * stride + o] += scaling * float(keys[o * dim + i]) * q[r * dim + i];
}

// D registers of channels of the weighted sums of R heads over `count` values [count, dim].
template <int R, int D, typename T>
inline void mix(const T* values, int64_t dim, const float* weights, int64_t stride, int64_t count,
                float* to) {
    Vector sum[R][D];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int d = 0; d < D; d++) sum[r][d] = no_vector();
    for (int64_t p = 0; p < count; p++) {
        Vector weight[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) weight[r] = all_of(weights[r * stride + p]);
#pragma GCC unroll 4
        for (int d = 0; d < D; d++) {
            const Vector value = vector_at(values + p * dim + d * WIDE);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) sum[r][d] = fused(sum[r][d], weight[r], value);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int d = 0; d < D; d++) store(to + r * dim + d * WIDE, sum[r][d]);
}

// The weighted sums of R heads over `count` values; overwrites q [R, dim].
template <int R, typename T>
inline void mix_all(const T* values, int64_t dim, const float* weights, int64_t stride,
                    int64_t count, float* q) {
    int64_t d = 0;
    for (; d + 4 * WIDE <= dim; d += 4 * WIDE)
        mix<R, 4>(values + d, dim, weights, stride, count, q + d);
    for (; d + WIDE <= dim; d += WIDE) mix<R, 1>(values + d, dim, weights, stride, count, q + d);
    for (; d < dim; d++)
        for (int r = 0; r < R; r++) {
            float sum = 0;
            for (int64_t p = 0; p < count; p++)
                sum += weights[r * stride + p] * float(values[p * dim + d]);
            q[r * dim + d] = sum;
        }
}

constexpr int64_t IN_CACHE = 1 << 18;  // values up to this many bytes are prefetched while keys are read

// The attention of R query heads q [R, dim] that read one key head; overwrites q with the output.
template <int R, typename T>
SALIENT_ALONE void attend_heads(const Attention& a, const T* keys, const T* values, int64_t length, float* q,
                         float* scores) {
    const int64_t dim = a.head_dim, stride = a.capacity, bytes = dim * sizeof(T);
    const bool ahead = length * bytes <= IN_CACHE;
    int64_t p = 0;
    for (; p + 4 <= length; p += 4) {
        if (ahead)
            for (int64_t at = 0; at < 4 * bytes; at += 64)
                prefetch((const char*)(values + p * dim) + at);
        score_four<R>(keys + p * dim, q, dim, a.scaling, scores + p, stride);
    }
    for (; p < length; p++)
        for (int r = 0; r < R; r++) {
            float score[1][1];
            dense_tile<1, 1>(keys + p * dim, q + r * dim, dim, score);
            scores[r * stride + p] = score[0][0] * a.scaling;
        }
    for (int r = 0; r < R; r++) {
        float* own = scores + r * stride;
        if (a.softcap > 0.0f)
            for (int64_t i = 0; i < length; i++) own[i] = a.softcap * std::tanh(own[i] / a.softcap);
        softmax(own, length);
    }
    mix_all<R>(values, dim, scores, stride, length, q);
}

// The attention of the query heads [from, to) of one row that read key head `kv`. q is overwritten
// with the result. `scores`: 3 * capacity floats of scratch memory.
template <typename T>
inline void attend(const Attention& a, const Batch& b, int64_t row, int64_t kv, int64_t from,
                   int64_t to, float* q, float* scores) {
    const int64_t end = b.positions[row] + 1, dim = a.head_dim;
    const int64_t first = a.window && end > a.window ? end - a.window : 0, length = end - first;
    const int64_t base = ((b.slots[row] * a.kv_heads + kv) * a.capacity + first) * dim;
    const T *keys = (const T*)a.keys + base, *values = (const T*)a.values + base;
    for (int64_t h = from; h < to;) {
        const int64_t left = to - h, count = left == 3 || left > 4 ? 3 : left > 1 ? 2 : 1;
        if (count == 3) attend_heads<3>(a, keys, values, length, q + h * dim, scores);
        else if (count == 2) attend_heads<2>(a, keys, values, length, q + h * dim, scores);
        else attend_heads<1>(a, keys, values, length, q + h * dim, scores);
        h += count;
    }
}

// Query heads that share a key head are computed together if there is enough work for all threads;
// a head's result is the same either way.
template <typename T>
inline void attend_all(const Attention& a, const Batch& b, float* qkv, int threads, int thread) {
    const int64_t shared = a.heads / a.kv_heads, stride = (a.heads + 2 * a.kv_heads) * a.head_dim;
    const int64_t together = b.rows * a.kv_heads >= threads ? shared : 1;
    const int64_t items = a.heads / together;
    float* scores = b.scores + thread * 3 * a.capacity;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < b.rows * items; i++) {
        const int64_t row = i / items, head = (i % items) * together;
        attend<T>(a, b, row, head / shared, head, head + together, qkv + row * stride, scores);
    }
}

template <typename T>
inline void store_and_attend(const Attention& a, const Batch& b, int threads, int thread) {
    rotate_and_store<T>(a, b, b.wide);
    attend_all<T>(a, b, b.wide, threads, thread);
}

}  // namespace salient
