// Ordinals of consecutive rows → which of them lie in a range, a word of a bitmap at a time.
#include "shim.h"

#include <immintrin.h>

namespace {

// Bits of the 64 ordinals that lie between low and high, both included.
uint64_t in_range(const uint64_t* ordinals, uint64_t low, uint64_t high) {
    // Only signed numbers are compared: what is added makes the least of the range the least of all.
    const __m256i shift = _mm256_set1_epi64x(static_cast<int64_t>((uint64_t{1} << 63) - low));
    const __m256i last = _mm256_set1_epi64x(static_cast<int64_t>(high - low + (uint64_t{1} << 63)));
    uint64_t beyond = 0;
    for (unsigned i = 0; i < 64; i += 4) {
        const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ordinals + i));
        const __m256i greater = _mm256_cmpgt_epi64(_mm256_add_epi64(four, shift), last);
        beyond |= static_cast<uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(greater))) << i;
    }
    return ~beyond;
}

}  // namespace

extern "C" void rektor_keep_in_ranges(const uint64_t* ordinals, const uint64_t* ranges, size_t count, uint64_t* marks,
                                      size_t words) {
    for (size_t word = 0; word < words; word++) {
        if (marks[word] == 0) {
            continue;
        }
        uint64_t in = 0;
        for (size_t i = 0; i < count; i++) {
            in |= in_range(ordinals + 64 * word, ranges[2 * i], ranges[2 * i + 1]);
        }
        marks[word] &= in;
    }
}
