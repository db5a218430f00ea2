// Candidates by codes → the nearest by stored vectors, compared only where their codes leave a doubt; and the nearest of all rows
// by their vectors alone.
#include "rank.h"

#include <algorithm>
#include <cstring>

using namespace rektor;

namespace rektor {
namespace {

// Distance and row as one number that sorts as they do: NaN last, and equal distances by row.
uint64_t sort_key(float distance, uint32_t row) {
    if (distance != distance) {
        distance = std::numeric_limits<float>::quiet_NaN();
    }
    uint32_t bits;
    std::memcpy(&bits, &distance, sizeof bits);
    bits ^= (bits >> 31) != 0 ? UINT32_MAX : 1u << 31;
    return static_cast<uint64_t>(bits) << 32 | row;
}

float key_distance(uint64_t key) {
    uint32_t bits = static_cast<uint32_t>(key >> 32);
    bits ^= (bits >> 31) != 0 ? 1u << 31 : UINT32_MAX;
    float distance;
    std::memcpy(&distance, &bits, sizeof distance);
    return distance;
}

int64_t give(std::vector<uint64_t>& keys, size_t k, uint32_t* rows, float* distances) {
    const size_t count = std::min(k, keys.size());
    std::partial_sort(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(count), keys.end());
    for (size_t i = 0; i < count; i++) {
        distances[i] = key_distance(keys[i]);
        rows[i] = static_cast<uint32_t>(keys[i]);
    }
    return static_cast<int64_t>(count);
}

// How many deviations off codes may be before so many candidates by codes are taken to hold all that matter: one in twenty rows as near as the last of
// the answer would be missed, and few lie just there.
constexpr double kLikely = 1.65;

// Compares a candidate by its vector; s.exact keeps the k nearest, the farthest of them on top.
void compare(const RektorView& view, const ByVector& by_vector, uint32_t row, size_t k, Scratch& s) {
    const float distance = by_vector.to(vector_of(view, row));
    const uint64_t key = sort_key(distance, row);
    s.computed++;
    if (s.exact.size() < k) {
        s.exact.push_back(key);
        std::push_heap(s.exact.begin(), s.exact.end());
    } else if (key < s.exact.front()) {
        std::pop_heap(s.exact.begin(), s.exact.end());
        s.exact.back() = key;
        std::push_heap(s.exact.begin(), s.exact.end());
    }
}

}  // namespace

bool rank(const RektorView& view, Query& query, const ByVector& by_vector, size_t k, size_t ef, bool all, Scratch& s) {
    s.exact.clear();
    const size_t first = std::min(k, s.best.size());
    if (first == 0) {
        return true;
    }
    const Candidate farthest = s.best.front();
    const auto begin = s.best.begin();
    const auto middle = begin + static_cast<ptrdiff_t>(first);
    std::nth_element(begin, middle - 1, s.best.end(), Nearer());
    Comparing comparing;
    for (size_t i = 0; i < first; i++) {
        comparing.wants(view, s.best[i].id);
    }
    for (size_t i = 0; i < std::min(first, kVectorsAhead); i++) {
        prefetch_vector(view, s.best[i].id);
    }
    for (size_t i = 0; i < first; i++) {
        if (i + kVectorsAhead < first) {
            prefetch_vector(view, s.best[i + kVectorsAhead].id);
        }
        compare(view, by_vector, s.best[i].id, k, s);
    }
    comparing.compared(view, first);
    if (of_bits(view.codes.metric)) {
        return true;  // codes are exact
    }
    const auto last = [&] { return by_vector.comparable(key_distance(s.exact.front())); };
    query.outside = last() > scales_of(view.codes, place_of(view.codes, s.best[0].id))[1];
    const auto may_be_nearer = [&](const Candidate& c, double deviations) {
        return doubt(view.codes, query, place_of(view.codes, c.id), last()).nearer(query.whole(c.distance), last(), deviations);
    };
    const auto end = std::partition(middle, s.best.end(), [&](const Candidate& c) { return may_be_nearer(c, kSure); });
    std::sort(middle, end, Nearer());
    for (auto c = middle; c < end; c++) {
        comparing.wants(view, c->id);
    }
    for (auto c = middle; c < end; c++) {
        if (c + kVectorsAhead < end) {
            prefetch_vector(view, (c + kVectorsAhead)->id);
        }
        if (may_be_nearer(*c, kSure)) {
            compare(view, by_vector, c->id, k, s);
        }
    }
    if (s.best.size() < ef || !may_be_nearer(farthest, kLikely)) {
        return true;
    }
    if (all) {
        return false;
    }
    const float nearest = std::min_element(begin, middle, Nearer())->distance;
    return !hopeless(doubt(view.codes, query, place_of(view.codes, farthest.id), last()), query.whole(nearest), query.whole(farthest.distance));
}

void rank_again(const RektorView& view, const ByVector& by_vector, size_t k, Scratch& s) {
    s.exact.clear();
    for (const Candidate& c : s.best) {
        compare(view, by_vector, c.id, k, s);
    }
}

int64_t give_ranked(const ByVector& by_vector, size_t k, uint32_t* rows, float* distances, uint64_t* computed,
                    Scratch& s) {
    *computed = s.computed;
    const int64_t count = give(s.exact, k, rows, distances);
    for (int64_t i = 0; i < count; i++) {
        distances[i] = by_vector.shown(distances[i]);
    }
    return count;
}

float last_ranked(const Scratch& s) {
    return key_distance(s.exact.front());
}

namespace {

int64_t scan(const RektorView& view, const float* x, size_t k, uint32_t* rows, float* distances, uint64_t* computed) {
    Scratch& s = scratch();
    s.exact.clear();
    s.computed = 0;
    const ByVector by_vector(view, x, view.codes.metric);
    for (size_t page = 0; k > 0 && page < view.live_pages; page++) {
        for (uint32_t word = 0; word < 512; word++) {
            const uint64_t live = view.live[page][word];
            const auto each = [&](const auto& row) {
                for (uint64_t bits = live; bits != 0; bits &= bits - 1) {
                    row(static_cast<uint32_t>(page << kPageShift) + word * 64 +
                        static_cast<uint32_t>(__builtin_ctzll(bits)));
                }
            };
            Comparing comparing;
            each([&](uint32_t row) { comparing.wants(view, row); });
            each([&](uint32_t row) { compare(view, by_vector, row, k, s); });
            comparing.compared(view, static_cast<size_t>(__builtin_popcountll(live)));
        }
    }
    return give_ranked(by_vector, k, rows, distances, computed, s);
}

}  // namespace
}  // namespace rektor

extern "C" int64_t rektor_scan(const RektorView* view, const float* query, size_t k, uint32_t* rows,
                               float* distances, uint64_t* computed) {
    try {
        return scan(*view, query, k, rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}
