// y = x @ W.T for a weight of 4-bit codes, or of 16-bit floats.
//
// Codes: rows are taken in blocks of 16, inputs in steps of 8. The 64 bytes of a step hold, for row r
// and p = 0, 1, the 16 bits of lane 2r + p; their nibble j (bits 4j) is the code of input 2j + p.
//
// Activations become int16 with a scale per group of the weight: |x| / max|x| * 32767, rounded. This
// is finer than bfloat16 (8 bits) or float16 (11 bits) except for values near zero, and integer
// addition is exact, so the result does not depend on the number of rows.

#pragma once

#include <cmath>
#include <cstddef>

#include "lanes.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif

namespace salient {

enum Kind : int32_t { CODES = 0, BFLOAT16 = 1, FLOAT16 = 2, FLOAT32 = 3 };

// A weight [out, width]. Of codes: out is a multiple of 16, width of the group, and the group of 8
// (the packer pads); zero and scale are [out / 16, groups, 16].
struct Linear {
    const void* weight;
    const float* scale;
    const uint8_t* zero;
    const float* bias;  // [out] or null
    int64_t out, width, group;
    int32_t kind;
};

// Activations of a few rows as integers.
struct Rounded {
    int16_t* x;    // [rows, width]
    float* scale;  // [rows, groups]
    float* sum;    // [rows, groups]: of x
};

constexpr int64_t INPUTS = 8;  // codes of a row in one step

// One row of one group; `x` has `count` values, up to `group` are zeros.
inline void round_group(const float* x, int64_t count, int64_t group, int16_t* to, float* scale,
                        float* sum) {
    float top = 0, odd = 0;  // odd becomes NaN with the first NaN or infinity
#pragma omp simd reduction(max : top) reduction(+ : odd)
    for (int64_t i = 0; i < count; i++) {
        const float size = std::fabs(x[i]);
        top = size > top ? size : top;
        odd += x[i] * 0.0f;
    }
    const float inverse = odd == 0.0f && top > 1e-34f ? 32767.0f / top : 0.0f;
    int32_t total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        const float v = odd == 0.0f ? x[i] * inverse : 0.0f;
        const int32_t rounded = int32_t(v + (v < 0.0f ? -0.5f : 0.5f));
        to[i] = int16_t(rounded);
        total += rounded;
    }
    for (int64_t i = count; i < group; i++) to[i] = 0;
    *scale = top / 32767.0f + odd;
    *sum = float(total);
}

// Group `i` of all rows' groups of `x` [rows, columns].
inline void round_one(const Linear& w, const float* x, int64_t columns, int64_t i, Rounded to) {
    const int64_t groups = w.width / w.group, row = i / groups, start = (i % groups) * w.group;
    const int64_t left = columns - start;
    const int64_t count = left < 0 ? 0 : left < w.group ? left : w.group;
    round_group(x + row * columns + start, count, w.group, to.x + row * w.width + start,
                to.scale + i, to.sum + i);
}

// Rounds `x` [rows, columns] (columns <= width) for `w`. Shared by the threads of a parallel region.
// Needs no barrier after a static loop that wrote rows of `x`: each thread has the same rows here.
// With fewer rows than threads, threads share the groups.
inline void round_rows(const Linear& w, const float* x, int64_t rows, int64_t columns,
                       Rounded to) {
    const int64_t groups = w.width / w.group;
    if (rows < omp_get_num_threads()) {
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows * groups; i++) round_one(w, x, columns, i, to);
    } else {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t g = 0; g < groups; g++) round_one(w, x, columns, row * groups + g, to);
    }
}

// Sixteen outputs of R rows.
template <int R>
SALIENT_ALONE void tile(const Linear& w, int64_t block, const Rounded& x, int64_t row,
                        Floats (&out)[R]) {
    const int64_t groups = w.width / w.group, steps = w.group / INPUTS;
    const uint8_t* codes = (const uint8_t*)w.weight + block * LANES * w.width / 2;
    const float* scale = w.scale + block * groups * LANES;
    const uint8_t* zero = w.zero + block * groups * LANES;
    const int16_t* in = x.x + row * w.width;
    Floats total[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) total[r] = no_floats();
    for (int64_t g = 0; g < groups; g++, scale += LANES, zero += LANES) {
        Ints sum[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[r] = no_ints();
        for (int64_t s = 0; s < steps; s++, codes += 64, in += INPUTS) {
            prefetch(codes + 4096);
            Codes c = codes_at(codes);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++, c = next(c)) {
                const Codes low = j < 3 ? lowest(c) : c;
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    add_products(sum[r], low, pair_at(in + r * w.width + 2 * j));
                    pin_register(sum[r]);
                }
            }
        }
        const Floats s = floats_at(scale), z = floats_at(zero);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const int64_t at = (row + r) * groups + g;
            const Floats whole = minus_product(to_floats(sum[r]), z, x.sum[at]);
            total[r] = plus_product(total[r], whole, times(s, x.scale[at]));
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) out[r] = total[r];
}

// The outputs of 16 floats to y, plus bias.
template <int R>
inline void tile_to(const Linear& w, int64_t block, const Rounded& x, int64_t row, float* y,
                    int64_t columns) {
    Floats out[R];
    tile<R>(w, block, x, row, out);
    const int64_t first = block * LANES;
    const int64_t count = columns - first < LANES ? columns - first : LANES;
    for (int r = 0; r < R; r++) {
        float* to = y + (row + r) * columns + first;
        if (count == LANES && !w.bias) {
            store(to, out[r]);
            continue;
        }
        float sums[LANES];
        store(sums, out[r]);
        for (int64_t i = 0; i < count; i++) to[i] = sums[i] + (w.bias ? w.bias[first + i] : 0.0f);
    }
}

// y [rows, columns] (columns <= out) = x @ W.T. In a parallel region.
inline void codes_matmul(const Linear& w, const Rounded& x, int64_t rows, float* y, int64_t columns) {
    const int64_t blocks = w.out / LANES;
    constexpr int64_t PANEL = 64;  // rows whose activations stay in cache while the weight passes
    for (int64_t first = 0; first < rows; first += PANEL) {
        const int64_t end = first + PANEL < rows ? first + PANEL : rows;
#pragma omp for schedule(guided, 4)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t row = first;
            for (; row + 4 <= end; row += 4) tile_to<4>(w, block, x, row, y, columns);
            for (; row + 2 <= end; row += 2) tile_to<2>(w, block, x, row, y, columns);
            for (; row < end; row++) tile_to<1>(w, block, x, row, y, columns);
        }
    }
}

// O outputs of R rows from weights of floats, [O, R]. Every output is summed in the same order for all
// O and R.
template <int O, int R, typename T>
SALIENT_ALONE void dense_tile(const T* w, const float* x, int64_t width, float (&to)[O][R]) {
    Vector sum[O][R];
#pragma GCC unroll 4
    for (int o = 0; o < O; o++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[o][r] = no_vector();
    int64_t i = 0;
    for (; i + WIDE <= width; i += WIDE) {
        Vector wide[O];
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) {
            wide[o] = vector_at(w + o * width + i);
            if (i % 32 == 0) prefetch(w + o * width + i + O * width);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            Vector in = vector_at(x + r * width + i);
            pin_register(in);
#pragma GCC unroll 4
            for (int o = 0; o < O; o++) sum[o][r] = fused(sum[o][r], wide[o], in);
        }
    }
#pragma GCC unroll 4
    for (int o = 0; o < O; o++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) to[o][r] = total(sum[o][r]);
    for (; i < width; i++)
        for (int o = 0; o < O; o++)
            for (int r = 0; r < R; r++)  // otherwise compilers fuse only some of these
                to[o][r] = std::fma(float(w[o * width + i]), x[r * width + i], to[o][r]);
}

// Outputs [first, first + O) of rows [row, row + R), plus bias.
template <int O, int R, typename T>
inline void dense_to(const Linear& w, int64_t first, const float* x, int64_t row, float* y) {
    float sums[O][R];
    dense_tile<O, R>((const T*)w.weight + first * w.width, x + row * w.width, w.width, sums);
    for (int o = 0; o < O; o++)
        for (int r = 0; r < R; r++) {
            const float bias = w.bias ? w.bias[first + o] : 0.0f;
            y[(row + r) * w.out + first + o] = sums[o][r] + bias;
        }
}

template <int O, typename T>
inline void dense_rows(const Linear& w, int64_t first, const float* x, int64_t rows, float* y) {
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) dense_to<O, 4, T>(w, first, x, row, y);
    for (; row + 2 <= rows; row += 2) dense_to<O, 2, T>(w, first, x, row, y);
    for (; row < rows; row++) dense_to<O, 1, T>(w, first, x, row, y);
}

template <typename T>
inline void dense_matmul(const Linear& w, const float* x, int64_t rows, float* y) {
    constexpr int O = 3;  // 12 sums of 4 rows, 3 weights and an input fill AVX2's 16 registers
#pragma omp for schedule(static)
    for (int64_t i = 0; i < (w.out + O - 1) / O; i++) {
        if ((i + 1) * O <= w.out) dense_rows<O, T>(w, i * O, x, rows, y);
        else
            for (int64_t o = i * O; o < w.out; o++) dense_rows<1, T>(w, o, x, rows, y);
    }
}

// y [rows, columns] = x [rows, inputs] @ W.T. In a parallel region; `room` is for
// rounded activations. Weights of floats have columns == out and inputs == width. Each thread
// may just have written its rows of `x` in a static loop.
inline void multiply(const Linear& w, const float* x, int64_t inputs, int64_t rows, float* y,
                     int64_t columns, Rounded room) {
    if (w.kind == CODES) {
        round_rows(w, x, rows, inputs, room);
        codes_matmul(w, room, rows, y, columns);
        return;
    }
#pragma omp barrier
    if (w.kind == BFLOAT16) dense_matmul<BFloat>(w, x, rows, y);
    else if (w.kind == FLOAT16) dense_matmul<Half>(w, x, rows, y);
    else dense_matmul<float>(w, x, rows, y);
}

// The dequantized weight [out, width]. In a parallel region.
inline void dequantize(const Linear& w, float* to) {
    const int64_t groups = w.width / w.group;
    const uint8_t* codes = (const uint8_t*)w.weight;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < w.out / LANES; block++) {
        for (int64_t step = 0; step < w.width / INPUTS; step++) {
            uint16_t lanes[2 * LANES];
            std::memcpy(lanes, codes + (block * w.width / INPUTS + step) * 64, sizeof lanes);
            const int64_t at = (block * groups + step * INPUTS / w.group) * LANES;
            for (int r = 0; r < LANES; r++)
                for (int i = 0; i < INPUTS; i++) {
                    const int code = (lanes[2 * r + i % 2] >> (4 * (i / 2))) & 15;
                    to[(block * LANES + r) * w.width + step * INPUTS + i] =
                        float(code - w.zero[at + r]) * w.scale[at + r];
                }
        }
    }
}

}  // namespace salient
