// Rows as codes: addresses, the query in its coded form, and distances between them.
#pragma once

#include "kernels.h"
#include "shim.h"

#include <cmath>
#include <limits>
#include <vector>

namespace rektor {

constexpr uint32_t kChunkMask = (1u << kChunkShift) - 1;
// Floats beside a code, at least.
constexpr size_t kScales = 4;
// Most distances computed in one call: a list of links has at most 2 × 100.
constexpr size_t kBatch = 256;

template <class T>
inline const T* at(const T* const* chunks, uint32_t row, size_t width) {
    return chunks[row >> kChunkShift] + (row & kChunkMask) * width;
}

// Where the code of a row is. Near rows lie near each other, whatever their numbers.
inline uint32_t place_of(const RektorCodes& codes, uint32_t row) {
    return codes.places == nullptr ? row : *at(codes.places, row, 1) - 1;
}

inline const uint8_t* code_of(const RektorCodes& codes, uint32_t place) {
    return at(codes.codes, place, codes.stride);
}

inline const float* scales_of(const RektorCodes& codes, uint32_t place) {
    return at(codes.scales, place, codes.beside);
}

inline uint32_t row_of(const RektorView& view, uint32_t node) {
    return *at(view.nodes, node, 1);
}

inline uint32_t node_place(const RektorView& view, uint32_t node) {
    return node < view.laid_out ? node : place_of(view.codes, row_of(view, node));
}

inline bool is_live(const RektorView& view, uint32_t row) {
    const size_t page = row >> kPageShift;
    return page < view.live_pages && (view.live[page][(row >> 6) & 511] >> (row & 63) & 1);
}

// What codes are compared with: a query, or a row during linking.
//   distance(x) = bias − weight × scale(x) × (dot(x) − correction) [+ addend(x)]
// For queries it leaves out what is the same for every row, so it may be negative; it orders rows as the metric does.
// Under L1 it is the sum of the components' distances, of floats; bits are compared as they are.
struct Query {
    const int8_t* bytes;
    int32_t correction;
    float weight;
    float bias;
    uint32_t addend;  // which of the row's floats; 0 for none
    const float* values;  // under L1, stride of them; else null
    float step = 0;         // between its own codes
    float square = 0;       // its squared norm
    float offsets[2] = {};  // what was left out: for rows nearer to the query than to the mean, and for others
    bool outside = false;   // whether the second is meant
    const int8_t* turned = nullptr;  // what signs are summed over, where rows have them (signs.h): stride of them, ...
    int32_t turned_total = 0;        // ... their sum, ...
    float turned_step = 0;           // ... and what they are multiples of

    // A distance with what was left out.
    float whole(float distance) const {
        return distance + offsets[outside ? 1 : 0];
    }
};

// The memory of a query's coded form.
struct Coded {
    std::vector<int8_t> bytes;
    std::vector<float> values;
    std::vector<float> turned;
    std::vector<int8_t> signed_bytes;
};

// How rows are compared with each other, where the metric leaves a choice.
enum class Measure { kSquare, kDot };

// stride numbers as signed bytes: their sum, and what they are multiples of.
struct Rounded {
    int32_t total;
    float step;
};
Rounded round_all(const float* x, size_t stride, std::vector<int8_t>& bytes);
// Coded form of a client's query; lives in `coded`.
Query code_query(const RektorCodes& codes, const float* query, Coded& coded);
// The row whose code is at a place as a query: squared L2 (of unit vectors under cosine), negative inner product, L1, or the distance of bits.
Query row_query(const RektorCodes& codes, uint32_t place, Measure measure, Coded& coded);

// Never NaN: heaps and sorts rely on an order.
inline float ordered(float d) {
    return d < std::numeric_limits<float>::infinity() ? d : std::numeric_limits<float>::infinity();
}

inline float from_dot(const RektorCodes& codes, const Query& q, uint32_t place, int32_t dot) {
    const float* scale = scales_of(codes, place);
    float d = q.bias - q.weight * scale[0] * static_cast<float>(dot - q.correction);
    if (q.addend != 0) {
        d += scale[q.addend];
    }
    return ordered(d);
}

inline bool of_bits(uint32_t metric) {
    return metric == kHamming || metric == kJaccard;
}

inline float bits_distance(uint32_t metric, const void* a, const void* b, size_t bytes) {
    const BitKernels& kernels = bit_kernels(best_bit_kernel());
    const auto distance = metric == kHamming ? kernels.hamming : kernels.jaccard;
    return distance(static_cast<const uint8_t*>(a), static_cast<const uint8_t*>(b), bytes);
}

inline float distance(const Kernels& kernels, const RektorCodes& codes, const Query& q, uint32_t place) {
    if (of_bits(codes.metric)) {
        return bits_distance(codes.metric, q.bytes, code_of(codes, place), codes.stride);
    }
    if (q.values != nullptr) {
        return ordered(kernels.manhattan(q.values, code_of(codes, place), *scales_of(codes, place), codes.stride));
    }
    return from_dot(codes, q, place, kernels.dot(q.bytes, code_of(codes, place), codes.stride));
}

// count ≤ kBatch.
inline void distances(const Kernels& kernels, const RektorCodes& codes, const Query& q, const uint32_t* places,
                      size_t count, float* out) {
    const uint8_t* addresses[kBatch];
    int32_t dots[kBatch];
    if (of_bits(codes.metric)) {
        const BitKernels& bits = bit_kernels(best_bit_kernel());
        for (size_t i = 0; i < count; i++) {
            addresses[i] = code_of(codes, places[i]);
        }
        const auto all = codes.metric == kHamming ? bits.hammings : bits.jaccards;
        all(reinterpret_cast<const uint8_t*>(q.bytes), addresses, count, codes.stride, out);
        return;
    }
    if (q.values != nullptr) {
        const float* scales[kBatch];
        for (size_t i = 0; i < count; i++) {
            addresses[i] = code_of(codes, places[i]);
            scales[i] = scales_of(codes, places[i]);
            __builtin_prefetch(scales[i]);
        }
        kernels.manhattans(q.values, addresses, scales, count, codes.stride, out);
        for (size_t i = 0; i < count; i++) {
            out[i] = ordered(out[i]);
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        addresses[i] = code_of(codes, places[i]);
        __builtin_prefetch(scales_of(codes, places[i]));
    }
    kernels.dots(q.bytes, addresses, count, codes.stride, dots);
    for (size_t i = 0; i < count; i++) {
        out[i] = from_dot(codes, q, places[i], dots[i]);
    }
}

// The places of all of so many rows; their number.
inline size_t all_of(size_t count, uint32_t* which) {
    for (size_t i = 0; i < count; i++) {
        which[i] = static_cast<uint32_t>(i);
    }
    return count;
}

}  // namespace rektor
