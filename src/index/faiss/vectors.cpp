// Vectors in 16 bits a component, as IEEE halves (F16C) or as the upper halves of floats, and back; and codes → vectors.
#include "vectors.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <cstring>

namespace rektor {
namespace {

// The largest finite half: what is beyond becomes it.
constexpr float kMostHalf = 65504;

uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// To the nearest, of two to the even one; what would become infinite is the largest.
uint16_t upper_half(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return static_cast<uint16_t>((rounded & 0x7fff) < 0x7f80 ? rounded : (rounded & 0x8000) | 0x7f7f);
}

// To the nearest half, of two to the even one; what would become infinite is the largest.
uint16_t half(float x) {
    return _cvtss_sh(std::min(std::max(x, -kMostHalf), kMostHalf), _MM_FROUND_TO_NEAREST_INT);
}

// Under cosine a vector's length does not matter: a power of two that brings its largest component to where halves have
// most room below it. 1 where nothing is lost anyway, so that doing it again changes nothing.
double scale_for_halves(const float* x, size_t count) {
    float most = 0;
    bool exact = true;
    for (size_t j = 0; j < count; j++) {
        most = std::max(most, std::fabs(x[j]));
        exact = exact && _cvtsh_ss(half(x[j])) == x[j];
    }
    if (exact) {
        return 1;
    }
    int exponent;
    std::frexp(most, &exponent);
    return std::ldexp(1.0, 15 - exponent);
}

// Of the processor's clock, some 5 µs: no page takes as long to compare, and no disk is as fast.
constexpr uint64_t kSlow = 12'500;
// One page that had to be read among a few rows is no reason yet.
constexpr size_t kFew = 10;
// Searches for which a thread asks beforehand after it had to wait: asking costs each about a microsecond a row.
constexpr uint32_t kAsking = 64;
constexpr uintptr_t kPage = 4096;

thread_local uint32_t asking = 0;

}  // namespace

void widen(uint32_t storage, const uint16_t* halves, size_t count, float* out) {
    size_t j = 0;
    for (; j + 8 <= count; j += 8) {
        const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + j));
        const __m256 floats = storage == kF16
                                      ? _mm256_cvtph_ps(eight)
                                      : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
        _mm256_storeu_ps(out + j, floats);
    }
    for (; j < count; j++) {
        if (storage == kF16) {
            out[j] = _cvtsh_ss(halves[j]);
        } else {
            const uint32_t bits = static_cast<uint32_t>(halves[j]) << 16;
            std::memcpy(out + j, &bits, sizeof bits);
        }
    }
}

void decode(const RektorCodes& codes, uint32_t row, float* out) {
    const uint32_t place = place_of(codes, row);
    const uint8_t* code = code_of(codes, place);
    const float scale = scales_of(codes, place)[0];
    for (size_t j = 0; j < codes.dim; j++) {
        out[j] = codes.mean[j] + scale * static_cast<float>(code[j] - 128);
    }
}

float* wide(size_t dim) {
    static thread_local std::vector<float> room;
    if (room.size() < dim) {
        room.resize(dim);
    }
    return room.data();
}

Comparing::Comparing() : began(__rdtsc()), slow(asking > 0) {
    asking -= slow ? 1 : 0;
}

void Comparing::wants(const RektorView& view, uint32_t row) const {
    if (!slow || view.storage == kCode) {
        return;
    }
    const size_t bytes = vector_bytes(view);
    const uintptr_t start = reinterpret_cast<uintptr_t>(at(view.vectors, row, bytes));
    const uintptr_t page = start & ~(kPage - 1);
    // Advice: if it is refused, the row is waited for.
    (void)madvise(reinterpret_cast<void*>(page), start + bytes - page, MADV_WILLNEED);
}

void Comparing::compared(const RektorView& view, size_t rows) {
    const size_t pages = vector_bytes(view) / kPage + 1;
    if (__rdtsc() - began > kSlow * pages * (rows + kFew)) {
        asking = kAsking;
    }
}

}  // namespace rektor

using namespace rektor;

extern "C" void rektor_narrow(uint32_t storage, uint32_t metric, const float* x, size_t count, uint16_t* out) {
    const double scale = storage == kF16 && metric == kCosine ? scale_for_halves(x, count) : 1;
    for (size_t j = 0; j < count; j++) {
        if (storage == kF16) {
            out[j] = half(static_cast<float>(x[j] * scale));
        } else {
            out[j] = upper_half(x[j]);
        }
    }
}

extern "C" void rektor_widen(uint32_t storage, const uint16_t* halves, size_t count, float* out) {
    widen(storage, halves, count, out);
}
