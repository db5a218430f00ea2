// Dot products of unsigned code bytes with signed query bytes for AVX-512 VNNI, AVX-VNNI and AVX2.
// Never `maddubs`: it saturates on full-range bytes. Sums fit 32 bits: 16,000 × 255 × 127 < 2^31.
#include "kernels.h"

#include <immintrin.h>

namespace rektor {
namespace {

// Codes fetched ahead of the one being multiplied: enough to cover a memory access with some 5 ns of work each.
constexpr size_t kAhead = 6;

inline void prefetch(const uint8_t* code, size_t stride) {
    for (size_t j = 0; j < stride; j += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(code + j), _MM_HINT_T0);
    }
}

#define REKTOR_DOTS(name, target_name, dot_name)                                                              \
    __attribute__((target(target_name))) void name(                                                           \
            const int8_t* query, const uint8_t* const* codes, size_t count, size_t stride, int32_t* out) {    \
        for (size_t i = 0; i < count && i < kAhead; i++) {                                                    \
            prefetch(codes[i], stride);                                                                       \
        }                                                                                                     \
        for (size_t i = 0; i < count; i++) {                                                                  \
            if (i + kAhead < count) {                                                                         \
                prefetch(codes[i + kAhead], stride);                                                          \
            }                                                                                                 \
            out[i] = dot_name(query, codes[i], stride);                                                       \
        }                                                                                                     \
    }

#define REKTOR_AVX512 "avx512f,avx512bw,avx512vl,avx512vnni"

__attribute__((target(REKTOR_AVX512))) int32_t dot_avx512(const int8_t* query, const uint8_t* code, size_t stride) {
    __m512i a = _mm512_setzero_si512();
    __m512i b = a;
    size_t j = 0;
    for (; j + 128 <= stride; j += 128) {
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(code + j), _mm512_loadu_si512(query + j));
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(code + j + 64), _mm512_loadu_si512(query + j + 64));
    }
    if (j < stride) {
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(code + j), _mm512_loadu_si512(query + j));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}
REKTOR_DOTS(dots_avx512, REKTOR_AVX512, dot_avx512)

inline int32_t sum(__m256i v) {
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i quarter = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
}

__attribute__((target("avx2,avxvnni"))) int32_t dot_avxvnni(const int8_t* query, const uint8_t* code, size_t stride) {
    __m256i a = _mm256_setzero_si256();
    __m256i b = a;
    for (size_t j = 0; j < stride; j += 64) {
        const auto* c = reinterpret_cast<const __m256i*>(code + j);
        const auto* q = reinterpret_cast<const __m256i*>(query + j);
        a = _mm256_dpbusd_avx_epi32(a, _mm256_loadu_si256(c), _mm256_loadu_si256(q));
        b = _mm256_dpbusd_avx_epi32(b, _mm256_loadu_si256(c + 1), _mm256_loadu_si256(q + 1));
    }
    return sum(_mm256_add_epi32(a, b));
}
REKTOR_DOTS(dots_avxvnni, "avx2,avxvnni", dot_avxvnni)

int32_t dot_avx2(const int8_t* query, const uint8_t* code, size_t stride) {
    __m256i a = _mm256_setzero_si256();
    __m256i b = a;
    for (size_t j = 0; j < stride; j += 32) {
        const auto* c = reinterpret_cast<const __m128i*>(code + j);
        const auto* q = reinterpret_cast<const __m128i*>(query + j);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(c)),
                                                  _mm256_cvtepi8_epi16(_mm_loadu_si128(q))));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(c + 1)),
                                                  _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))));
    }
    return sum(_mm256_add_epi32(a, b));
}
REKTOR_DOTS(dots_avx2, "avx2", dot_avx2)

int32_t to_signed(const uint8_t* code, int8_t* signed_code, size_t stride) {
    const __m256i offset = _mm256_set1_epi8(static_cast<char>(0x80));
    __m256i total = _mm256_setzero_si256();
    for (size_t j = 0; j < stride; j += 32) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(code + j));
        total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(signed_code + j), _mm256_xor_si256(bytes, offset));
    }
    alignas(32) int64_t parts[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), total);
    return static_cast<int32_t>(parts[0] + parts[1] + parts[2] + parts[3] - 128 * static_cast<int64_t>(stride));
}

constexpr Kernels kKernels[] = {
        {dots_avx2, dot_avx2, to_signed},
        {dots_avxvnni, dot_avxvnni, to_signed},
        {dots_avx512, dot_avx512, to_signed},
};

}  // namespace

const Kernels& kernels(uint32_t kind) {
    return kKernels[kind];
}

uint32_t best_kernel() {
    static const uint32_t best = [] {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
            return 2u;
        }
        return __builtin_cpu_supports("avxvnni") ? 1u : 0u;
    }();
    return best;
}

}  // namespace rektor
