// Rows as one bit a dimension → about how far they are, and how far off that may be: most candidates of a walk are left
// out by it, and their codes never fetched.
//
// RaBitQ (Gao and Long, SIGMOD 2024): a row x − mean, as its code has it, and the query q are turned by the same random
// rotation, and of the row the signs s are kept. Then f × <s, q> with f = |x|² / <s, x> is <x, q> but for what the part of
// q across x adds, by chance: with a deviation of |q across x| × √(f² − |x|² / dim). Where x is within some distance of q, that
// part is no longer than the distance.
#pragma once

#include "codes.h"

#include <algorithm>

namespace rektor {

static_assert(kBatch <= kSifted && kSignsAt == kScales * sizeof(float));
// Which of the floats beside a code is f.
constexpr size_t kSignFactor = 3;

inline bool has_signs(const RektorCodes& codes) {
    return codes.beside > kScales;
}

// Adds to a query, which code_query coded a moment ago in `coded`, what signs are compared with; nothing where rows have none.
void sign_query(const RektorCodes& codes, Query& query, Coded& coded);
// The same to a row as a query, by where its code is.
void sign_row_query(const RektorCodes& codes, uint32_t place, Query& query, Coded& coded);

// Of rows, given by where their codes are, those that may be nearer than `reach`, if signs are off by up to so many deviations: their places among them and
// their distances; how many. count ≤ kBatch; the query has signs.
// Where the rows are the first of some in order, `known` of these are there, else 0.
inline size_t distances_within(const Kernels& kernels, const RektorCodes& codes, const Query& q, const uint32_t* places,
                               size_t count, float reach, float deviations, uint32_t* which, float* found, size_t known = 0) {
    const float dim = static_cast<float>(codes.stride);
    const float twice = q.addend == 1 ? 2 : 1;
    const float across = q.addend == 1 ? std::min(q.square, std::max(q.whole(reach), 0.0f)) : q.square;
    const float allowed = deviations * deviations * twice * twice;
    const float rounding = dim * q.turned_step * q.turned_step / 12;
    const Sieve sieve{codes.scales,         codes.beside,
                      kSignsAt + codes.stride / 8,
                      codes.codes,          codes.stride,
                      q.turned,             q.turned_total,
                      twice * q.turned_step, q.bias - reach,
                      q.addend,             allowed * (across + rounding),
                      allowed * across / dim};
    const uint8_t* near[kBatch];
    const auto sift = known == 0 ? kernels.sift : kernels.sweep;
    const size_t count_near = sift(sieve, places, count, known, which, near);
    int32_t dots[kBatch];
    kernels.dots(q.bytes, near, count_near, codes.stride, dots);
    for (size_t i = 0; i < count_near; i++) {
        found[i] = from_dot(codes, q, places[which[i]], dots[i]);
    }
    return count_near;
}

}  // namespace rektor
