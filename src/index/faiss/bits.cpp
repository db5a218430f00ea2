// Hamming and Jaccard distances of strings of bits for AVX-512 VPOPCNTDQ and AVX2. Any multiple of four bytes, of which
// nothing beyond is read. No FAISS header here, as in kernels.cpp.
#include "kernels.h"
#include "shim.h"

#include <immintrin.h>

#include <cstring>

namespace rektor {
namespace {

// Strings fetched ahead of the one being compared: they are shorter than codes, so more of them.
constexpr size_t kAhead = 8;

// Rows begin anywhere in a cache line: the last byte may be in another one.
inline void prefetch(const uint8_t* bits, size_t bytes) {
    for (size_t j = 0; j < bytes; j += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(bits + j), _MM_HINT_T0);
    }
    _mm_prefetch(reinterpret_cast<const char*>(bits + bytes - 1), _MM_HINT_T0);
}

#define REKTOR_EACH(name, target_name, distance_name)                                                         \
    __attribute__((target(target_name))) void name(                                                           \
            const uint8_t* query, const uint8_t* const* codes, size_t count, size_t bytes, float* out) {      \
        for (size_t i = 0; i < count && i < kAhead; i++) {                                                    \
            prefetch(codes[i], bytes);                                                                        \
        }                                                                                                     \
        for (size_t i = 0; i < count; i++) {                                                                  \
            if (i + kAhead < count) {                                                                         \
                prefetch(codes[i + kAhead], bytes);                                                           \
            }                                                                                                 \
            out[i] = distance_name(query, codes[i], bytes);                                                   \
        }                                                                                                     \
    }

// As pgvector computes it: two strings without a common bit are as far apart as can be, also when both are zero.
inline float jaccard_of(uint64_t both, uint64_t either) {
    return both == 0 ? 1 : static_cast<float>(1 - static_cast<double>(both) / static_cast<double>(either));
}

#define REKTOR_POPCNT "avx512f,avx512bw,avx512vl,avx512vpopcntdq"

// The 32-bit words from j to the end, fewer than 16.
__attribute__((target(REKTOR_POPCNT))) inline __m512i rest_avx512(const uint8_t* bits, size_t j, size_t bytes) {
    const auto words = static_cast<__mmask16>((1u << (bytes - j) / 4) - 1);
    return _mm512_maskz_loadu_epi32(words, bits + j);
}

__attribute__((target(REKTOR_POPCNT))) float hamming_avx512(const uint8_t* a, const uint8_t* b, size_t bytes) {
    __m512i differ = _mm512_setzero_si512();
    size_t j = 0;
    for (; j + 64 <= bytes; j += 64) {
        const __m512i x = _mm512_xor_si512(_mm512_loadu_si512(a + j), _mm512_loadu_si512(b + j));
        differ = _mm512_add_epi64(differ, _mm512_popcnt_epi64(x));
    }
    if (j < bytes) {
        const __m512i x = _mm512_xor_si512(rest_avx512(a, j, bytes), rest_avx512(b, j, bytes));
        differ = _mm512_add_epi64(differ, _mm512_popcnt_epi64(x));
    }
    return static_cast<float>(_mm512_reduce_add_epi64(differ));
}
REKTOR_EACH(hammings_avx512, REKTOR_POPCNT, hamming_avx512)

__attribute__((target(REKTOR_POPCNT))) float jaccard_avx512(const uint8_t* a, const uint8_t* b, size_t bytes) {
    __m512i both = _mm512_setzero_si512();
    __m512i either = both;
    for (size_t j = 0; j < bytes; j += 64) {
        const bool whole = j + 64 <= bytes;
        const __m512i x = whole ? _mm512_loadu_si512(a + j) : rest_avx512(a, j, bytes);
        const __m512i y = whole ? _mm512_loadu_si512(b + j) : rest_avx512(b, j, bytes);
        both = _mm512_add_epi64(both, _mm512_popcnt_epi64(_mm512_and_si512(x, y)));
        either = _mm512_add_epi64(either, _mm512_popcnt_epi64(_mm512_or_si512(x, y)));
    }
    return jaccard_of(_mm512_reduce_add_epi64(both), _mm512_reduce_add_epi64(either));
}
REKTOR_EACH(jaccards_avx512, REKTOR_POPCNT, jaccard_avx512)

// Bits set, in each 64 of them.
inline __m256i counts_avx2(__m256i bits) {
    const __m256i of_nibble = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                               0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i counts = _mm256_add_epi8(
            _mm256_shuffle_epi8(of_nibble, _mm256_and_si256(bits, low)),
            _mm256_shuffle_epi8(of_nibble, _mm256_and_si256(_mm256_srli_epi16(bits, 4), low)));
    return _mm256_sad_epu8(counts, _mm256_setzero_si256());
}

inline __m256i load_avx2(const uint8_t* bits) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits));
}

inline uint64_t sum(__m256i counts) {
    alignas(32) uint64_t parts[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), counts);
    return parts[0] + parts[1] + parts[2] + parts[3];
}

inline uint32_t word(const uint8_t* bits) {
    uint32_t word;
    std::memcpy(&word, bits, sizeof word);
    return word;
}

float hamming_avx2(const uint8_t* a, const uint8_t* b, size_t bytes) {
    __m256i counts = _mm256_setzero_si256();
    size_t j = 0;
    for (; j + 32 <= bytes; j += 32) {
        counts = _mm256_add_epi64(counts, counts_avx2(_mm256_xor_si256(load_avx2(a + j), load_avx2(b + j))));
    }
    uint64_t differ = sum(counts);
    for (; j < bytes; j += 4) {
        differ += static_cast<uint64_t>(__builtin_popcount(word(a + j) ^ word(b + j)));
    }
    return static_cast<float>(differ);
}
REKTOR_EACH(hammings_avx2, "avx2", hamming_avx2)

float jaccard_avx2(const uint8_t* a, const uint8_t* b, size_t bytes) {
    __m256i and_counts = _mm256_setzero_si256();
    __m256i or_counts = and_counts;
    size_t j = 0;
    for (; j + 32 <= bytes; j += 32) {
        const __m256i x = load_avx2(a + j);
        const __m256i y = load_avx2(b + j);
        and_counts = _mm256_add_epi64(and_counts, counts_avx2(_mm256_and_si256(x, y)));
        or_counts = _mm256_add_epi64(or_counts, counts_avx2(_mm256_or_si256(x, y)));
    }
    uint64_t both = sum(and_counts);
    uint64_t either = sum(or_counts);
    for (; j < bytes; j += 4) {
        both += static_cast<uint64_t>(__builtin_popcount(word(a + j) & word(b + j)));
        either += static_cast<uint64_t>(__builtin_popcount(word(a + j) | word(b + j)));
    }
    return jaccard_of(both, either);
}
REKTOR_EACH(jaccards_avx2, "avx2", jaccard_avx2)

constexpr BitKernels kKernels[] = {
        {hammings_avx2, hamming_avx2, jaccards_avx2, jaccard_avx2},
        {hammings_avx512, hamming_avx512, jaccards_avx512, jaccard_avx512},
};

}  // namespace

const BitKernels& bit_kernels(uint32_t kind) {
    return kKernels[kind];
}

uint32_t best_bit_kernel() {
    static const uint32_t best = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq");
    return best;
}

}  // namespace rektor

using namespace rektor;

extern "C" uint32_t rektor_best_bit_kernel() {
    return best_bit_kernel();
}

extern "C" float rektor_bits(uint32_t kernel, uint32_t metric, const uint8_t* a, const uint8_t* b, size_t bytes) {
    const BitKernels& kernels = bit_kernels(kernel);
    return metric == kHamming ? kernels.hamming(a, b, bytes) : kernels.jaccard(a, b, bytes);
}
