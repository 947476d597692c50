// What Python calls. One translation unit, built on the machine that runs it.

#include "block.h"

using namespace salient;

extern "C" {

int32_t salient_instructions() {
#if defined(SALIENT_AVX512) && defined(__AVX512VNNI__)
    return 3;
#elif defined(SALIENT_AVX512)
    return 2;
#elif defined(SALIENT_AVX2)
    return 1;
#else
    return 0;
#endif
}

int32_t salient_has_threads() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void salient_multiply(const Linear* w, const float* x, int64_t inputs, int64_t rows, float* y,
                      int64_t columns, Rounded room, int32_t threads) {
    (void)threads;
#pragma omp parallel num_threads(threads)
    multiply(*w, x, inputs, rows, y, columns, room);
}

void salient_dequantize(const Linear* w, float* to, int32_t threads) {
    (void)threads;
#pragma omp parallel num_threads(threads)
    dequantize(*w, to);
}

void salient_blocks(const Block* blocks, int64_t count, const Batch* b, int32_t threads) {
    (void)threads;
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        run_block(blocks[i], *b, omp_get_num_threads(), omp_get_thread_num());
}
}
