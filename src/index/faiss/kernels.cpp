// Dot products of unsigned code bytes with signed query bytes, and L1 distances of codes and floats, for AVX-512 VNNI,
// AVX-VNNI and AVX2.
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

// The same for L1 distances.
#define REKTOR_MANHATTANS(name, target_name, manhattan_name)                                                  \
    __attribute__((target(target_name))) void name(                                                           \
            const float* query, const uint8_t* const* codes, const float* const* scales, size_t count,        \
            size_t stride, float* out) {                                                                      \
        for (size_t i = 0; i < count && i < kAhead; i++) {                                                    \
            prefetch(codes[i], stride);                                                                       \
        }                                                                                                     \
        for (size_t i = 0; i < count; i++) {                                                                  \
            if (i + kAhead < count) {                                                                         \
                prefetch(codes[i + kAhead], stride);                                                          \
            }                                                                                                 \
            out[i] = manhattan_name(query, codes[i], scales[i][0], stride);                                   \
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

// The row's scale differs from the query's, so that bytes cannot be subtracted: they become floats.
__attribute__((target(REKTOR_AVX512))) float manhattan_avx512(const float* query, const uint8_t* code, float scale,
                                                              size_t stride) {
    const __m128i offset = _mm_set1_epi8(static_cast<char>(0x80));
    const __m512 scales = _mm512_set1_ps(scale);
    __m512 a = _mm512_setzero_ps();
    __m512 b = a;
    for (size_t j = 0; j < stride; j += 32) {
        const auto* c = reinterpret_cast<const __m128i*>(code + j);
        const __m512i x = _mm512_cvtepi8_epi32(_mm_xor_si128(_mm_loadu_si128(c), offset));
        const __m512i y = _mm512_cvtepi8_epi32(_mm_xor_si128(_mm_loadu_si128(c + 1), offset));
        a = _mm512_add_ps(a, _mm512_abs_ps(_mm512_fnmadd_ps(scales, _mm512_cvtepi32_ps(x), _mm512_loadu_ps(query + j))));
        b = _mm512_add_ps(
                b, _mm512_abs_ps(_mm512_fnmadd_ps(scales, _mm512_cvtepi32_ps(y), _mm512_loadu_ps(query + j + 16))));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}
REKTOR_MANHATTANS(manhattans_avx512, REKTOR_AVX512, manhattan_avx512)

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

float manhattan_avx2(const float* query, const uint8_t* code, float scale, size_t stride) {
    const __m128i offset = _mm_set1_epi8(static_cast<char>(0x80));
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 scales = _mm256_set1_ps(scale);
    __m256 a = _mm256_setzero_ps();
    __m256 b = a;
    for (size_t j = 0; j < stride; j += 16) {
        const __m128i bytes = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(code + j)), offset);
        const __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        const __m256 y = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
        a = _mm256_add_ps(a, _mm256_andnot_ps(sign, _mm256_fnmadd_ps(scales, x, _mm256_loadu_ps(query + j))));
        b = _mm256_add_ps(b, _mm256_andnot_ps(sign, _mm256_fnmadd_ps(scales, y, _mm256_loadu_ps(query + j + 8))));
    }
    const __m256 both = _mm256_add_ps(a, b);
    __m128 total = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    total = _mm_add_ps(total, _mm_movehl_ps(total, total));
    return _mm_cvtss_f32(_mm_add_ss(total, _mm_movehdup_ps(total)));
}
REKTOR_MANHATTANS(manhattans_avx2, "avx2", manhattan_avx2)

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
        {dots_avx2, dot_avx2, manhattans_avx2, manhattan_avx2, to_signed},
        {dots_avxvnni, dot_avxvnni, manhattans_avx2, manhattan_avx2, to_signed},
        {dots_avx512, dot_avx512, manhattans_avx512, manhattan_avx512, to_signed},
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
