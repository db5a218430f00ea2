// Distances of rows from one point, by codes or by stored vectors, and how far the first may be from the second.
//
// Both order rows as the metric does and are comparable once `Query::offset` is added to those by codes: squared L2 (of
// unit vectors under cosine), negative inner product, L1, Hamming and Jaccard, of which codes are exact: no doubt is asked for.
#pragma once

#include "signs.h"
#include "vectors.h"

#include <faiss/utils/distances.h>

#include <algorithm>

namespace rektor {

// Vectors fetched ahead of the one being compared.
constexpr size_t kVectorsAhead = 3;
// As a reach, of all rows.
constexpr float kEverywhere = std::numeric_limits<float>::infinity();
// How many deviations off signs may be: of rows that a walk meets, whose answers are mostly much nearer than the reach. Of the
// nearest 64 of 16,000 real embeddings 1.5 deviations lose 1.5 %, of the nearest ten none, and 190 others pass, not 290 as with
// 2. With 1 or 1.25 searches cost as much: what is saved, more effort takes.
constexpr float kSignsWalked = 1.5;
// … and of rows that are all compared. With 2 a fifth fewer pass, and of 128 dimensions one in 130 of the answer is lost.
constexpr float kSignsCompared = 3;

struct ByCode {
    const Kernels& kernels;
    const RektorCodes& codes;
    const Query& query;
    float deviations;

    ByCode(const RektorView& view, const Query& query, float deviations = kSignsWalked)
            : kernels(rektor::kernels(best_kernel())), codes(view.codes), query(query), deviations(deviations) {}
    // What the others take: where codes are.
    static uint32_t of_node(const RektorView& view, uint32_t node) {
        return node_place(view, node);
    }
    uint32_t of_row(uint32_t row) const {
        return place_of(codes, row);
    }
    float one(uint32_t place) const {
        return distance(kernels, codes, query, place);
    }
    // count ≤ kBatch.
    void many(const uint32_t* places, size_t count, float* found) const {
        distances(kernels, codes, query, places, count, found);
    }
    // Of rows at least those nearer than `reach`, or nearly all: their places among them and their distances; how many.
    size_t within(const uint32_t* places, size_t count, float reach, uint32_t* which, float* found) const {
        if (query.turned != nullptr && reach < kEverywhere && count > 0) {
            return distances_within(kernels, codes, query, places, count, reach, deviations, which, found);
        }
        many(places, count, found);
        return all_of(count, which);
    }
    // The same of the first of so many rows that are all to be compared, in order.
    size_t within_next(const uint32_t* places, size_t known, float reach, uint32_t* which, float* found) const {
        const size_t count = std::min(known, kBatch);
        if (query.turned != nullptr && reach < kEverywhere && count > 0) {
            return distances_within(kernels, codes, query, places, count, reach, deviations, which, found, known);
        }
        many(places, count, found);
        return all_of(count, which);
    }
};

struct ByVector {
    const RektorView& view;
    const float* point;
    size_t dim;
    uint32_t metric;
    float norm;  // squared, under cosine
    std::vector<float> own;

    ByVector(const RektorView& view, const float* point, uint32_t metric)
            : view(view),
              point(point),
              dim(view.codes.dim),
              metric(metric),
              norm(metric == kCosine ? faiss::fvec_norm_L2sqr(point, dim) : 0) {}
    // A row, compared as linking compares rows.
    ByVector(const RektorView& view, uint32_t row, Measure measure)
            : ByVector(view, vector_of(view, row), compared_by(view.codes.metric, measure)) {
        if (view.storage != kF32) {
            own.assign(point, point + dim);  // the rows that it is compared with come where it is
            point = own.data();
        }
    }
    ByVector(const ByVector&) = delete;

    // What the others take: rows.
    static uint32_t of_node(const RektorView& view, uint32_t node) {
        return row_of(view, node);
    }
    static uint32_t of_row(uint32_t row) {
        return row;
    }

    static uint32_t compared_by(uint32_t metric, Measure measure) {
        return metric != kInnerProduct || measure == Measure::kDot ? metric : static_cast<uint32_t>(kL2);
    }
    // As pgvector computes it, but for the square under L2.
    float to(const float* x) const {
        if (of_bits(metric)) {
            return bits_distance(metric, point, x, dim * sizeof(float));
        }
        if (metric == kL2) {
            return faiss::fvec_L2sqr(point, x, dim);
        }
        if (metric == kL1) {
            return faiss::fvec_L1(point, x, dim);
        }
        const float dot = faiss::fvec_inner_product(point, x, dim);
        if (metric == kInnerProduct) {
            return -dot;
        }
        const double norms = static_cast<double>(norm) * faiss::fvec_norm_L2sqr(x, dim);
        const double similarity = static_cast<double>(dot) / std::sqrt(norms);
        return static_cast<float>(1 - (similarity > 1 ? 1 : similarity < -1 ? -1 : similarity));
    }
    // The metric's own distance, of what `to` gave.
    float shown(float distance) const {
        return metric == kL2 ? std::sqrt(distance) : distance;
    }
    // Half of the squared distance of unit vectors is their cosine distance.
    float comparable(float distance) const {
        return metric == kCosine ? 2 * distance : distance;
    }
    float one(uint32_t row) const {
        return ordered(comparable(to(vector_of(view, row))));
    }
    void many(const uint32_t* rows, size_t count, float* out) const {
        for (size_t i = 0; i < std::min(count, kVectorsAhead); i++) {
            prefetch_vector(view, rows[i]);
        }
        for (size_t i = 0; i < count; i++) {
            if (i + kVectorsAhead < count) {
                prefetch_vector(view, rows[i + kVectorsAhead]);
            }
            out[i] = one(rows[i]);
        }
    }
    size_t within(const uint32_t* rows, size_t count, float, uint32_t* which, float* found) const {
        many(rows, count, found);
        return all_of(count, which);
    }
    size_t within_next(const uint32_t* rows, size_t known, float reach, uint32_t* which, float* found) const {
        return within(rows, std::min(known, kBatch), reach, which, found);
    }
};

// What a distance by codes may be off by, when the true one is `truth`. Roundings are like independent draws, uniform
// over a step, so what they do to a distance has a deviation. Those of rows in one place are alike, though: such rows
// seem farther than they are, by `bias` at most. In double: floats squared twice leave their range.
struct Doubt {
    double variance;
    double bias;

    // Whether a row that codes put at `estimate` (whole) may be nearer than `truth`, if their error is up to so many
    // deviations. Also for what is not a number.
    bool nearer(double estimate, double truth, double deviations) const {
        const double beyond = estimate - bias - truth;
        return !(beyond > 0 && beyond * beyond > deviations * deviations * variance);
    }
};

inline Doubt doubt(const RektorCodes& codes, const Query& q, uint32_t place, double truth) {
    // Of floats that are summed, relative to the sum.
    constexpr double kFloat = 4e-7;
    const float* scale = scales_of(codes, place);
    const double dim = static_cast<double>(codes.dim);
    const double steps = static_cast<double>(scale[0]) * scale[0];
    const double own_steps = static_cast<double>(q.step) * q.step;
    if (q.values != nullptr) {
        // Components nearer to each other than half a step seem farther, by half a step at most: all may be, unless the
        // distance is of many steps.
        const double step = static_cast<double>(scale[0]) + q.step;
        const double alike = truth > 4 * step * dim ? 4 * step * dim / truth : 1;
        const double rounding = kFloat * truth;
        return {dim * (steps + own_steps) / 12 + rounding * rounding, dim * step / 2 * alike};
    }
    const double rounding = kFloat * (static_cast<double>(scale[1]) + q.square);
    if (q.addend == 1) {
        // 2 × the difference of the points × the difference of their roundings. Where the points are nearer than a step s,
        // a component d of their difference is coded as 0 or s, so that s × d is found for d², besides the s² / 6 that
        // points elsewhere lose by rounding: s² × 5 / 12 too much at most, with a variance of s⁴ / 4 at most.
        const double own = q.outside ? scale[1] : truth;
        const double both = steps + own_steps;
        const double variance = (truth * steps + own * own_steps) / 3 + dim * both * both / 16;
        return {variance + rounding * rounding, dim * both * 5 / 24};
    }
    return {(q.square * steps + scale[1] * own_steps) / 12 + rounding * rounding, 0};
}

// Whether codes cannot tell candidates apart that they put at `first` to `last` (whole): all are within what the codes
// may be off by. Embeddings lie 50 deviations apart; rows of one line, circle or bunch of near copies may not.
inline bool hopeless(const Doubt& doubt, double first, double last) {
    constexpr double kDeviations = 8;
    const double spread = last - first - doubt.bias;
    return spread <= 0 || spread * spread <= kDeviations * kDeviations * doubt.variance;
}

}  // namespace rektor
