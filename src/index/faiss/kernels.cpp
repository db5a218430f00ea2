// Dot products of unsigned code bytes and of bits with signed query bytes, and L1 distances of codes and floats, for AVX-512 VNNI,
// AVX-VNNI and AVX2.
// Never `maddubs`: it saturates on full-range bytes. Sums fit 32 bits: 16,000 × 255 × 127 < 2^31.
#include "kernels.h"

#include <immintrin.h>

namespace rektor {
namespace {

// Codes fetched ahead of the one being multiplied: enough to cover a memory access with some 5 ns of work each.
constexpr size_t kAhead = 6;

// Rows fetched ahead of those whose signs are summed up, where rows follow each other.
constexpr size_t kSweptAhead = 32;

inline void prefetch(const uint8_t* code, size_t stride) {
    for (size_t j = 0; j < stride; j += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(code + j), _MM_HINT_T0);
    }
}

template <class T>
inline const T* place(const T* const* chunks, uint32_t row, size_t width) {
    return chunks[row >> kChunkShift] + (row & ((1u << kChunkShift) - 1)) * width;
}

inline const uint8_t* beside(const Sieve& sieve, uint32_t row) {
    return reinterpret_cast<const uint8_t*>(place(sieve.scales, row, sieve.beside));
}

// Which of four rows pass, a bit each, given the sums of their bits.
inline unsigned within(const Sieve& sieve, const uint8_t* const* rows, __m128i sums) {
    __m128 scale = _mm_loadu_ps(reinterpret_cast<const float*>(rows[0]));
    __m128 square = _mm_loadu_ps(reinterpret_cast<const float*>(rows[1]));
    __m128 shift = _mm_loadu_ps(reinterpret_cast<const float*>(rows[2]));
    __m128 factor = _mm_loadu_ps(reinterpret_cast<const float*>(rows[3]));
    _MM_TRANSPOSE4_PS(scale, square, shift, factor);
    const __m128i twice = _mm_sub_epi32(_mm_add_epi32(sums, sums), _mm_set1_epi32(sieve.total));
    const __m128 dots = _mm_mul_ps(_mm_mul_ps(_mm_cvtepi32_ps(twice), factor), _mm_set1_ps(sieve.weight));
    const __m128 addend = sieve.addend == 1 ? square : sieve.addend == 2 ? shift : _mm_setzero_ps();
    const __m128 beyond = _mm_sub_ps(_mm_add_ps(addend, _mm_set1_ps(sieve.base)), dots);
    const __m128 off = _mm_sub_ps(_mm_mul_ps(_mm_mul_ps(factor, factor), _mm_set1_ps(sieve.of_factor)),
                                  _mm_mul_ps(square, _mm_set1_ps(sieve.of_square)));
    // Also what is not a number passes.
    const __m128 far = _mm_and_ps(_mm_cmpgt_ps(beyond, _mm_setzero_ps()), _mm_cmpgt_ps(_mm_mul_ps(beyond, beyond), off));
    return ~static_cast<unsigned>(_mm_movemask_ps(far)) & 15u;
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

// Four rows at once. What is beside rows is fetched so many rows ahead, as memory brings it while others are summed up; with 0
// beside all of them at first, as their order is none that memory could foresee.
#define REKTOR_SIFT(name, target_name, sums_name, ahead)                                                      \
    __attribute__((target(target_name))) size_t name(const Sieve& sieve, const uint32_t* rows, size_t count,  \
                                                     size_t known, uint32_t* passed, const uint8_t** codes) { \
        const uint8_t* all[ahead == 0 ? kSifted + 3 : 4];                                                     \
        for (size_t i = 0; ahead == 0 && i < count; i++) {                                                    \
            all[i] = beside(sieve, rows[i]);                                                                  \
            prefetch(all[i], sieve.signs_end);                                                                \
        }                                                                                                     \
        for (size_t i = count; ahead == 0 && i < count + 3; i++) {                                            \
            all[i] = all[count - 1];                                                                          \
        }                                                                                                     \
        size_t found = 0;                                                                                     \
        for (size_t i = 0; i < count; i += 4) {                                                               \
            const uint8_t** four = ahead == 0 ? all + i : all;                                                \
            for (size_t j = 0; ahead != 0 && j < 4; j++) {                                                    \
                four[j] = beside(sieve, rows[i + j < count ? i + j : count - 1]);                             \
            }                                                                                                 \
            for (size_t j = i + ahead; ahead != 0 && j < i + ahead + 4 && j < known; j++) {                   \
                prefetch(beside(sieve, rows[j]), sieve.signs_end);                                            \
            }                                                                                                 \
            unsigned near = within(sieve, four, sums_name(sieve.query, four, sieve.stride));                  \
            near &= count - i < 4 ? (1u << (count - i)) - 1 : 15u;                                            \
            for (; near != 0; near &= near - 1) {                                                             \
                const size_t at = i + static_cast<size_t>(__builtin_ctz(near));                               \
                codes[found] = place(sieve.codes, rows[at], sieve.stride);                                    \
                prefetch(codes[found], sieve.stride);                                                         \
                passed[found++] = static_cast<uint32_t>(at);                                                  \
            }                                                                                                 \
        }                                                                                                     \
        return found;                                                                                         \
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

// Sums of four rows at once, whose bits come after their four floats and choose among the query's components.
__attribute__((target(REKTOR_AVX512))) __m128i signed_sums_avx512(const int8_t* query, const uint8_t* const* rows,
                                                                  size_t stride) {
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i a = _mm512_setzero_si512();
    __m512i b = a;
    __m512i c = a;
    __m512i d = a;
    const auto chosen = [&](const uint8_t* row, size_t j) __attribute__((target(REKTOR_AVX512), always_inline)) {
        return _mm512_maskz_mov_epi8(_cvtu64_mask64(*reinterpret_cast<const uint64_t*>(row + kSignsAt + j / 8)), ones);
    };
    for (size_t j = 0; j < stride; j += 64) {
        const __m512i components = _mm512_loadu_si512(query + j);
        a = _mm512_dpbusd_epi32(a, chosen(rows[0], j), components);
        b = _mm512_dpbusd_epi32(b, chosen(rows[1], j), components);
        c = _mm512_dpbusd_epi32(c, chosen(rows[2], j), components);
        d = _mm512_dpbusd_epi32(d, chosen(rows[3], j), components);
    }
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
REKTOR_SIFT(sift_avx512, REKTOR_AVX512, signed_sums_avx512, 0)
REKTOR_SIFT(sweep_avx512, REKTOR_AVX512, signed_sums_avx512, kSweptAhead)

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

__m128i signed_sums_avx2(const int8_t* query, const uint8_t* const* rows, size_t stride) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                            3, 3, 3, 3, 3, 3);
    const __m256i each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i wide_ones = _mm256_set1_epi16(1);
    __m256i totals[4] = {};
    for (size_t j = 0; j < stride; j += 32) {
        const __m256i components = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + j));
        for (size_t i = 0; i < 4; i++) {
            const __m256i word = _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(rows[i] + kSignsAt + j / 8));
            const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(word, spread), each);
            const __m256i chosen = _mm256_and_si256(_mm256_cmpeq_epi8(own, each), components);
            // Of two bytes each: they do not saturate.
            const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, chosen), wide_ones);
            totals[i] = _mm256_add_epi32(totals[i], sums);
        }
    }
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(totals[0], totals[1]), _mm256_hadd_epi32(totals[2], totals[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}
REKTOR_SIFT(sift_avx2, "avx2", signed_sums_avx2, 0)
REKTOR_SIFT(sweep_avx2, "avx2", signed_sums_avx2, kSweptAhead)

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
        {dots_avx2, dot_avx2, sift_avx2, sweep_avx2, manhattans_avx2, manhattan_avx2, to_signed},
        {dots_avxvnni, dot_avxvnni, sift_avx2, sweep_avx2, manhattans_avx2, manhattan_avx2, to_signed},
        {dots_avx512, dot_avx512, sift_avx512, sweep_avx512, manhattans_avx512, manhattan_avx512, to_signed},
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
