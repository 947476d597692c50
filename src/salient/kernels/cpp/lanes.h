// Sixteen lanes of numbers, one row of a weight block each, on AVX-512, AVX2 and plain C++.
//
// Everything that differs between processors is in this file. The plain version defines the
// others; compilers vectorize it well for NEON.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) && !defined(SALIENT_PLAIN)
#define SALIENT_AVX512
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(SALIENT_PLAIN)
#define SALIENT_AVX2
#include <immintrin.h>
#endif

namespace salient {

constexpr int LANES = 16;

// Two neighbouring activations as 32 bits.
inline int32_t pair_at(const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return pair;
}

// 16-bit floats as they lie in memory.
struct BFloat {
    uint16_t bits;
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float f;
        std::memcpy(&f, &wide, sizeof f);
        return f;
    }
    static BFloat of(float f) {  // to nearest, ties to even; NaN stays NaN
        uint32_t wide;
        std::memcpy(&wide, &f, sizeof wide);
        if (f != f) return {uint16_t((wide >> 16) | 64)};
        return {uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
    }
};
#if defined(__FLT16_MAX__)
using Half = _Float16;
#else
#error "The compiler has no _Float16. Use GCC 12 or Clang 15, or newer."
#endif

inline void prefetch(const void* address) { __builtin_prefetch(address); }

// An inner loop in a function of its own gets all registers; inlined, only the remaining ones.
#define SALIENT_ALONE __attribute__((noinline))

#if defined(SALIENT_AVX512)

struct Ints {  // int32 x 16
    __m512i v;
};
struct Floats {  // float x 16
    __m512 v;
};
struct Codes {  // (row, pair) x 16 x 2, four codes in each 16 bits
    __m512i v;
};

inline Ints no_ints() { return {_mm512_setzero_si512()}; }
inline Floats no_floats() { return {_mm512_setzero_ps()}; }
inline Codes codes_at(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Codes lowest(Codes c) { return {_mm512_and_si512(c.v, _mm512_set1_epi16(15))}; }
inline Codes next(Codes c) { return {_mm512_srli_epi16(c.v, 4)}; }
inline void add_products(Ints& sum, Codes w, int32_t pair) {
#if defined(__AVX512VNNI__)
    sum.v = _mm512_dpwssd_epi32(sum.v, w.v, _mm512_set1_epi32(pair));
#else
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(w.v, _mm512_set1_epi32(pair)));
#endif
}
inline void pin_register(Ints& sum) { asm volatile("" : "+v"(sum.v)); }
inline Floats floats_at(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Floats floats_at(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Floats times(Floats a, float b) { return {_mm512_mul_ps(a.v, _mm512_set1_ps(b))}; }
inline Floats plus_product(Floats sum, Floats a, Floats b) {
    return {_mm512_fmadd_ps(a.v, b.v, sum.v)};
}
inline Floats minus_product(Floats sum, Floats a, float b) {
    return {_mm512_fnmadd_ps(a.v, _mm512_set1_ps(b), sum.v)};
}
using Vector = __m512;  // a register of floats
constexpr int WIDE = 16;
inline void pin_register(Vector& a) { asm volatile("" : "+v"(a)); }
inline Vector no_vector() { return _mm512_setzero_ps(); }
inline Vector vector_at(const float* p) { return _mm512_loadu_ps(p); }
inline Vector vector_at(const BFloat* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Vector vector_at(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
inline Vector all_of(float f) { return _mm512_set1_ps(f); }
inline Vector fused(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
inline void store(float* p, Vector a) { _mm512_storeu_ps(p, a); }
inline float total(Vector a) { return _mm512_reduce_add_ps(a); }
inline void totals(const Vector (&a)[4], float scaling, float* to) {
    for (int i = 0; i < 4; i++) to[i] = total(a[i]) * scaling;
}
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }

#elif defined(SALIENT_AVX2)

struct Ints {
    __m256i lo, hi;
};
struct Floats {
    __m256 lo, hi;
};
struct Codes {
    __m256i lo, hi;
};

inline Ints no_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Floats no_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Codes codes_at(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline Codes lowest(Codes c) {
    const __m256i mask = _mm256_set1_epi16(15);
    return {_mm256_and_si256(c.lo, mask), _mm256_and_si256(c.hi, mask)};
}
inline Codes next(Codes c) { return {_mm256_srli_epi16(c.lo, 4), _mm256_srli_epi16(c.hi, 4)}; }
inline void add_products(Ints& sum, Codes w, int32_t pair) {
    const __m256i x = _mm256_set1_epi32(pair);
    sum.lo = _mm256_add_epi32(sum.lo, _mm256_madd_epi16(w.lo, x));
    sum.hi = _mm256_add_epi32(sum.hi, _mm256_madd_epi16(w.hi, x));
}
// Compilers otherwise compute all products before they add any, and spill them.
inline void pin_register(Ints& sum) { asm volatile("" : "+x"(sum.lo), "+x"(sum.hi)); }
inline Floats floats_at(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Floats floats_at(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline Floats times(Floats a, float b) {
    const __m256 v = _mm256_set1_ps(b);
    return {_mm256_mul_ps(a.lo, v), _mm256_mul_ps(a.hi, v)};
}
inline Floats plus_product(Floats sum, Floats a, Floats b) {
    return {_mm256_fmadd_ps(a.lo, b.lo, sum.lo), _mm256_fmadd_ps(a.hi, b.hi, sum.hi)};
}
inline Floats minus_product(Floats sum, Floats a, float b) {
    const __m256 v = _mm256_set1_ps(b);
    return {_mm256_fnmadd_ps(a.lo, v, sum.lo), _mm256_fnmadd_ps(a.hi, v, sum.hi)};
}
using Vector = __m256;
constexpr int WIDE = 8;
// Compilers otherwise load it again for each product.
inline void pin_register(Vector& a) { asm volatile("" : "+x"(a)); }
inline Vector no_vector() { return _mm256_setzero_ps(); }
inline Vector vector_at(const float* p) { return _mm256_loadu_ps(p); }
inline Vector vector_at(const BFloat* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Vector vector_at(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
inline Vector all_of(float f) { return _mm256_set1_ps(f); }
inline Vector fused(Vector sum, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sum); }
inline void store(float* p, Vector a) { _mm256_storeu_ps(p, a); }
inline float total(Vector a) {
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
inline void totals(const Vector (&a)[4], float scaling, float* to) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    const __m128 sums =
        _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
    _mm_storeu_ps(to, _mm_mul_ps(sums, _mm_set1_ps(scaling)));
}
inline void store(float* p, Floats a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

#else

struct Ints {
    int32_t v[16];
};
struct Floats {
    float v[16];
};
struct Codes {
    uint16_t v[32];
};

inline Ints no_ints() { return {}; }
inline Floats no_floats() { return {}; }
inline Codes codes_at(const uint8_t* p) {
    Codes c;
    std::memcpy(c.v, p, sizeof c.v);
    return c;
}
inline Codes lowest(Codes c) {
    for (auto& v : c.v) v &= 15;
    return c;
}
inline Codes next(Codes c) {
    for (auto& v : c.v) v >>= 4;
    return c;
}
inline void add_products(Ints& sum, Codes w, int32_t pair) {
    int16_t x[2];
    std::memcpy(x, &pair, sizeof x);
    for (int i = 0; i < 16; i++)
        sum.v[i] += int32_t(w.v[2 * i]) * x[0] + int32_t(w.v[2 * i + 1]) * x[1];
}
inline void pin_register(Ints&) {}
inline Floats to_floats(Ints a) {
    Floats f;
    for (int i = 0; i < 16; i++) f.v[i] = float(a.v[i]);
    return f;
}
inline Floats times(Floats a, float b) {
    for (auto& v : a.v) v *= b;
    return a;
}
inline Floats plus_product(Floats sum, Floats a, Floats b) {
    for (int i = 0; i < 16; i++) sum.v[i] += a.v[i] * b.v[i];
    return sum;
}
inline Floats minus_product(Floats sum, Floats a, float b) {
    for (int i = 0; i < 16; i++) sum.v[i] -= a.v[i] * b;
    return sum;
}
template <typename T>
inline Floats floats_at(const T* p) {
    Floats f;
    for (int i = 0; i < 16; i++) f.v[i] = float(p[i]);
    return f;
}
struct Vector {
    float v[8];
};
constexpr int WIDE = 8;
inline void pin_register(Vector&) {}
inline Vector no_vector() { return {}; }
template <typename T>
inline Vector vector_at(const T* p) {
    Vector result;
    for (int i = 0; i < 8; i++) result.v[i] = float(p[i]);
    return result;
}
inline Vector all_of(float f) {
    Vector result;
    for (float& v : result.v) v = f;
    return result;
}
inline void store(float* p, Vector a) { std::memcpy(p, a.v, sizeof a.v); }
inline Vector fused(Vector sum, Vector a, Vector b) {
    for (int i = 0; i < 8; i++) sum.v[i] += a.v[i] * b.v[i];
    return sum;
}
inline float total(Vector a) {
    float sum = 0;
    for (float v : a.v) sum += v;
    return sum;
}
inline void totals(const Vector (&a)[4], float scaling, float* to) {
    for (int i = 0; i < 4; i++) to[i] = total(a[i]) * scaling;
}
inline void store(float* p, Floats a) { std::memcpy(p, a.v, sizeof a.v); }

#endif

}  // namespace salient
