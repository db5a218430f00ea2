// Codes → signs, and queries → what signs are summed over. See signs.h.
#include "distance.h"

#include <immintrin.h>

#include <algorithm>

namespace rektor {
namespace {

// Bits that are as good as random, the same in every process.
uint64_t random_bits(uint64_t index) {
    uint64_t x = (index + 1) * 0x9e3779b97f4a7c15;  // splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// Multiplies with ±factor; count is a multiple of 64.
void flip(float* x, size_t count, float factor, size_t round) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256 factors = _mm256_set1_ps(factor);
    for (size_t j = 0; j < count; j += 64) {
        uint64_t bits = random_bits(round << 32 | j);
        for (size_t i = j; i < j + 64; i += 8, bits >>= 8) {
            const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits & 255)), each);
            const __m256i minus = _mm256_slli_epi32(_mm256_cmpeq_epi32(chosen, each), 31);
            const __m256 value = _mm256_mul_ps(_mm256_loadu_ps(x + i), factors);
            _mm256_storeu_ps(x + i, _mm256_xor_ps(value, _mm256_castsi256_ps(minus)));
        }
    }
}

// The Hadamard transform, not normalised, of a power of two of numbers, 64 at least.
void hadamard(float* x, size_t count) {
    const __m256 first = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 second = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 third = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    for (size_t i = 0; i < count; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = _mm256_fmadd_ps(v, first, _mm256_permute_ps(v, 0xb1));
        v = _mm256_fmadd_ps(v, second, _mm256_permute_ps(v, 0x4e));
        v = _mm256_fmadd_ps(v, third, _mm256_permute2f128_ps(v, v, 1));
        _mm256_storeu_ps(x + i, v);
    }
    for (size_t half = 8; half < count; half *= 2) {
        for (size_t block = 0; block < count; block += 2 * half) {
            for (size_t i = block; i < block + half; i += 8) {
                const __m256 a = _mm256_loadu_ps(x + i);
                const __m256 b = _mm256_loadu_ps(x + i + half);
                _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
                _mm256_storeu_ps(x + i + half, _mm256_sub_ps(a, b));
            }
        }
    }
}

// Turns a vector, always by the same rotation, which is as good as a random one: signs at random and Hadamard transforms, of the
// largest power of two from the left and, where that is not all, from the right and from the left again.
void turn(float* x, size_t count) {
    size_t block = 64;
    while (2 * block <= count) {
        block *= 2;
    }
    const size_t rounds = block == count ? 2 : 3;
    const float factor = 1 / std::sqrt(static_cast<float>(block));
    for (size_t round = 0; round < rounds; round++) {
        float* from = round % 2 == 0 ? x : x + (count - block);
        flip(from, block, factor, round);
        hadamard(from, block);
    }
}

void decode(const uint8_t* code, float scale, size_t stride, float* out) {
    for (size_t j = 0; j < stride; j++) {
        out[j] = scale * static_cast<float>(static_cast<int>(code[j]) - 128);
    }
}

// Codes the turned query in s.turned.
void code_turned(Query& query, size_t stride, Coded& s) {
    float* x = s.turned.data();
    turn(x, stride);
    const Rounded rounded = round_all(x, stride, s.signed_bytes);
    query.turned = s.signed_bytes.data();
    query.turned_total = rounded.total;
    query.turned_step = rounded.step;
}

}  // namespace

void sign_query(const RektorCodes& codes, Query& query, Coded& s) {
    if (!has_signs(codes)) {
        return;
    }
    s.turned = s.values;
    code_turned(query, codes.stride, s);
}

void sign_row_query(const RektorCodes& codes, uint32_t place, Query& query, Coded& s) {
    if (!has_signs(codes)) {
        return;
    }
    s.turned.resize(codes.stride);
    decode(code_of(codes, place), *scales_of(codes, place), codes.stride, s.turned.data());
    code_turned(query, codes.stride, s);
}

}  // namespace rektor

using namespace rektor;

extern "C" void rektor_sign(const RektorCodes* codes, const uint8_t* code, float* scale) {
    if (!has_signs(*codes)) {
        return;
    }
    static thread_local std::vector<float> turned;
    turned.resize(codes->stride);
    decode(code, scale[0], codes->stride, turned.data());
    turn(turned.data(), codes->stride);
    auto* bits = reinterpret_cast<uint8_t*>(scale + kScales);
    std::fill(bits, reinterpret_cast<uint8_t*>(scale + codes->beside), uint8_t{0});
    double square = 0;
    double along = 0;  // <signs, turned>
    for (size_t j = 0; j < codes->stride; j++) {
        const double value = turned[j];
        bits[j / 8] = static_cast<uint8_t>(bits[j / 8] | (value > 0 ? 1u : 0u) << (j % 8));
        square += value * value;
        along += std::fabs(value);
    }
    scale[kSignFactor] = along > 0 ? static_cast<float>(square / along) : 0;
}

extern "C" uint32_t rektor_nearest(const RektorCodes* codes, const uint32_t* places, size_t count,
                                   const RektorCodes* others, uint32_t place) {
    static thread_local Coded coded;
    Query query = row_query(*others, place, Measure::kSquare, coded);
    sign_row_query(*others, place, query, coded);
    // A few first, all of which are compared: how near the nearest is leaves out most of the others.
    constexpr size_t kFirst = 16;
    uint32_t which[kBatch];
    float found[kBatch];
    float nearest = kEverywhere;
    uint32_t best = places[0];
    for (size_t done = 0; done < count;) {
        const size_t now = std::min(count - done, done == 0 ? kFirst : kBatch);
        size_t near = now;
        if (query.turned != nullptr && nearest < kEverywhere) {
            near = distances_within(kernels(best_kernel()), *codes, query, places + done, now, nearest, kSignsWalked, which, found);
        } else {
            distances(kernels(best_kernel()), *codes, query, places + done, now, found);
            near = all_of(now, which);
        }
        for (size_t i = 0; i < near; i++) {
            if (found[i] < nearest) {
                nearest = found[i];
                best = places[done + which[i]];
            }
        }
        done += now;
    }
    return best;
}

extern "C" size_t rektor_within(uint32_t kernel, const RektorCodes* codes, const float* query, const uint32_t* rows,
                                size_t count, float reach, float deviations, bool swept, uint32_t* which, float* found) {
    Coded coded;
    Query coded_query = code_query(*codes, query, coded);
    sign_query(*codes, coded_query, coded);
    if (coded_query.turned == nullptr) {
        distances(kernels(kernel), *codes, coded_query, rows, count, found);
        return all_of(count, which);
    }
    return distances_within(kernels(kernel), *codes, coded_query, rows, count, reach, deviations, which, found,
                            swept ? count : 0);
}
