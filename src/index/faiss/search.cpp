// A query → the nearest live rows: through the graph and the rows not linked yet by codes, then by stored vectors.
#include "graph.h"

#include <faiss/utils/distances.h>

#include <sys/resource.h>

#include <algorithm>
#include <cstring>

using namespace rektor;

namespace rektor {
namespace {

// Of the candidates weighed by their codes, so many are compared exactly: k, doubled, and a few for small k. With few
// dimensions the codes' errors do not average out, but vectors are cheap to compare: there it is this many components.
constexpr size_t kExactComponents = 4096;
size_t compared_exactly(size_t k, size_t dim) {
    return std::max(2 * k + 4, kExactComponents / dim);
}
// Vectors fetched ahead of the one being compared.
constexpr size_t kVectorsAhead = 3;

// The distance as pgvector's operator computes it.
struct Exact {
    const float* query;
    size_t dim;
    uint32_t metric;
    float query_norm;

    Exact(const RektorView& view, const float* query)
            : query(query),
              dim(view.codes.dim),
              metric(view.codes.metric),
              query_norm(metric == kCosine ? faiss::fvec_norm_L2sqr(query, view.codes.dim) : 0) {}

    float distance(const float* x) const {
        if (metric == kL2) {
            return std::sqrt(faiss::fvec_L2sqr(query, x, dim));
        }
        const float dot = faiss::fvec_inner_product(query, x, dim);
        if (metric == kInnerProduct) {
            return -dot;
        }
        const double norms = static_cast<double>(query_norm) * faiss::fvec_norm_L2sqr(x, dim);
        const double similarity = static_cast<double>(dot) / std::sqrt(norms);
        return static_cast<float>(1 - (similarity > 1 ? 1 : similarity < -1 ? -1 : similarity));
    }
};

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

int64_t give(std::vector<uint64_t>& keys, size_t k, uint32_t* rows, float* distances) {
    const size_t count = std::min(k, keys.size());
    std::partial_sort(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(count), keys.end());
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = static_cast<uint32_t>(keys[i] >> 32);
        bits ^= (bits >> 31) != 0 ? 1u << 31 : UINT32_MAX;
        std::memcpy(distances + i, &bits, sizeof bits);
        rows[i] = static_cast<uint32_t>(keys[i]);
    }
    return static_cast<int64_t>(count);
}

void prefetch_vector(const RektorView& view, uint32_t row) {
    const float* x = at(view.vectors, row, view.codes.dim);
    for (size_t j = 0; j < view.codes.dim; j += 16) {
        __builtin_prefetch(x + j);
    }
}

// Every live row may be found; nothing is to be decided on the way.
struct Every {
    bool operator()(uint32_t) const {
        return true;
    }
    bool goes_on(bool, size_t*, Scratch&) {
        return true;
    }
};

// Candidates over which the share of those that are allowed is averaged: enough for a share of a tenth to show.
constexpr double kRecent = 64;
// After so many candidates it is known whether the filter keeps away from the query ...
constexpr uint64_t kTold = 128;
// ... which it does when not half as many as expected are allowed.
constexpr double kStarved = 0.5;

// Live rows that a filter allows. A search that keeps `ef` of all rows to give the k nearest weighs ef − k beyond them; where
// a share of the rows is allowed, each that is kept stands for so many more that were weighed, and fewer have to be kept. The
// share that counts is the one where the search is, not that of the whole table. A filter that keeps away from the query
// starves the walk: then those allowed lie at the walk's rim, found in no order, and all of ef are kept.
struct Asked {
    const RektorFilter& filter;
    size_t k;
    size_t ef;
    double share;
    uint64_t seen = 0;
    uint64_t allowed = 0;
    bool gave_up = false;

    Asked(const RektorFilter& filter, size_t k, size_t ef) : filter(filter), k(k), ef(ef), share(filter.share) {}

    bool operator()(uint32_t row) const {
        return filter.allowed(filter.context, row);
    }
    // Notes whether the walk's next candidate is allowed, and sets how many are kept. False when comparing all that are
    // allowed is cheaper than going on.
    bool goes_on(bool is_allowed, size_t* keeps, Scratch& s) {
        seen++;
        allowed += is_allowed ? 1 : 0;
        share += ((is_allowed ? 1.0 : 0.0) - share) / kRecent;
        const double expected = filter.share * static_cast<double>(seen);
        const bool starved = seen >= kTold && static_cast<double>(allowed) < kStarved * expected;
        *keeps = starved ? ef : k + static_cast<size_t>(static_cast<double>(ef - k) * share);
        while (s.best.size() > *keeps) {
            std::pop_heap(s.best.begin(), s.best.end(), Nearer());
            s.best.pop_back();
        }
        gave_up = s.computed > (starved ? filter.most_starved : filter.most);
        return !gave_up;
    }
};

// The rows of the same code as a candidate's.
template <class Allows>
void admit_twins(const RektorGraph& graph, const RektorView& view, Candidate of, size_t ef, const Allows& allows,
                 Scratch& s) {
    for (int32_t twin = load(graph.twins + of.id); twin != 0;) {
        if (s.best.size() >= ef && of.distance >= s.best.front().distance) {
            return;
        }
        const uint32_t node = static_cast<uint32_t>(twin - 1);
        const uint32_t row = *at(view.nodes, node, 1);
        if (node < view.linked && is_live(view, row) && allows(row)) {
            keep(s.best, ef, {of.distance, row});
        }
        twin = load(graph.twins + node);
    }
}

// Leaves the ef nearest live linked rows that are allowed in s.best; not all of them where it gives up.
template <class Allows>
void walk(const RektorGraph& graph, const RektorView& view, const Query& query, size_t& ef, Allows& allows, Scratch& s) {
    const Kernels& kernels = rektor::kernels(best_kernel());
    const uint64_t entry = graph.entry.load(std::memory_order_acquire);
    if (entry == kNoEntry) {
        return;
    }
    const uint32_t first = static_cast<uint32_t>(entry);
    Candidate start{distance(kernels, view.codes, query, *at(view.nodes, first, 1)), first};
    s.computed++;
    for (int level = static_cast<int>(entry >> 32); level > 0; level--) {
        start = descend(graph, view, query, level, start, s);
    }
    explore(graph, view, query, 0, ef, start, s, [&](Candidate c) {
        // Nodes from `linked` on are scanned instead.
        const uint32_t row = *at(view.nodes, c.id, 1);
        const bool found = c.id < view.linked && is_live(view, row) && allows(row);
        if (found) {
            keep(s.best, ef, {c.distance, row});
        }
        if (has_twins(graph, c.id)) {
            admit_twins(graph, view, c, ef, allows, s);
        }
        if (!allows.goes_on(found, &ef, s)) {
            s.frontier.clear();  // nothing is left to go on from
        }
    });
}

// Adds the nearest of the rows that are not linked to s.best.
template <class Allows>
void scan_head(const RektorView& view, const Query& query, size_t ef, const Allows& allows, Scratch& s) {
    const Kernels& kernels = rektor::kernels(best_kernel());
    uint32_t rows[kBatch];
    float found[kBatch];
    for (uint32_t node = view.linked; node < view.extent;) {
        size_t count = 0;
        for (; node < view.extent && count < kBatch; node++) {
            const uint32_t row = *at(view.nodes, node, 1);
            if (is_live(view, row) && allows(row)) {
                rows[count++] = row;
            }
        }
        distances(kernels, view.codes, query, rows, count, found);
        s.computed += count;
        for (size_t i = 0; i < count; i++) {
            keep(s.best, ef, {found[i], rows[i]});
        }
    }
}

// Compares the best of the candidates by their vectors, and gives the k nearest.
int64_t give_best(const RektorView& view, const float* x, size_t k, uint32_t* rows, float* distances,
                  uint64_t* computed, Scratch& s) {
    const size_t count = std::min(s.best.size(), compared_exactly(k, view.codes.dim));
    std::partial_sort(s.best.begin(), s.best.begin() + static_cast<ptrdiff_t>(count), s.best.end(), Nearer());
    const Exact exact(view, x);
    s.exact.clear();
    for (size_t i = 0; i < std::min(count, kVectorsAhead); i++) {
        prefetch_vector(view, s.best[i].id);
    }
    for (size_t i = 0; i < count; i++) {
        if (i + kVectorsAhead < count) {
            prefetch_vector(view, s.best[i + kVectorsAhead].id);
        }
        const uint32_t row = s.best[i].id;
        s.exact.push_back(sort_key(exact.distance(at(view.vectors, row, view.codes.dim)), row));
    }
    *computed = s.computed + count;
    return give(s.exact, k, rows, distances);
}

template <class Allows>
int64_t search(const RektorGraph* graph, const RektorView& view, const float* x, size_t k, size_t ef, Allows& allows,
               uint32_t* rows, float* distances, uint64_t* computed) {
    Scratch& s = scratch();
    s.computed = 0;
    s.best.clear();
    s.query.resize(view.codes.stride);
    const Query query = code_query(view.codes, x, s.query.data(), s.centred);
    if (graph != nullptr) {
        walk(*graph, view, query, ef, allows, s);
    }
    scan_head(view, query, ef, allows, s);
    return give_best(view, x, k, rows, distances, computed, s);
}

int64_t search_rows(const RektorView& view, const float* x, size_t k, const uint32_t* among, size_t count,
                    uint32_t* rows, float* distances, uint64_t* computed) {
    Scratch& s = scratch();
    const Kernels& kernels = rektor::kernels(best_kernel());
    s.computed = count;
    s.best.clear();
    s.query.resize(view.codes.stride);
    const Query query = code_query(view.codes, x, s.query.data(), s.centred);
    const size_t wanted = compared_exactly(k, view.codes.dim);
    float found[kBatch];
    for (size_t done = 0; done < count;) {
        const size_t now = std::min(kBatch, count - done);
        rektor::distances(kernels, view.codes, query, among + done, now, found);
        for (size_t i = 0; i < now; i++) {
            keep(s.best, wanted, {found[i], among[done + i]});
        }
        done += now;
    }
    return give_best(view, x, k, rows, distances, computed, s);
}

int64_t scan(const RektorView& view, const float* x, size_t k, uint32_t* rows, float* distances, uint64_t* computed) {
    std::vector<uint64_t>& keys = scratch().exact;  // the k smallest, largest on top
    keys.clear();
    *computed = 0;
    const Exact exact(view, x);
    for (size_t page = 0; k > 0 && page < view.live_pages; page++) {
        for (uint32_t word = 0; word < 512; word++) {
            for (uint64_t bits = view.live[page][word]; bits != 0; bits &= bits - 1) {
                const uint32_t row = static_cast<uint32_t>(page << kPageShift) + word * 64 +
                                     static_cast<uint32_t>(__builtin_ctzll(bits));
                const uint64_t key = sort_key(exact.distance(at(view.vectors, row, view.codes.dim)), row);
                ++*computed;
                if (keys.size() < k) {
                    keys.push_back(key);
                    std::push_heap(keys.begin(), keys.end());
                } else if (key < keys.front()) {
                    std::pop_heap(keys.begin(), keys.end());
                    keys.back() = key;
                    std::push_heap(keys.begin(), keys.end());
                }
            }
        }
    }
    return give(keys, k, rows, distances);
}

}  // namespace
}  // namespace rektor

extern "C" void rektor_low_priority() {
    // Of the thread: on Linux a thread has its own. May be refused: then it competes as the others do.
    setpriority(PRIO_PROCESS, 0, 19);
}

extern "C" int64_t rektor_search(const RektorGraph* graph, const RektorView* view, const float* query, size_t k,
                                 size_t ef, uint32_t* rows, float* distances, uint64_t* computed) {
    try {
        Every every;
        return search(graph, *view, query, k, ef, every, rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" int64_t rektor_search_allowed(const RektorGraph* graph, const RektorView* view, const float* query, size_t k,
                                         size_t ef, const RektorFilter* filter, uint32_t* rows, float* distances,
                                         uint64_t* computed) {
    try {
        Asked asked(*filter, k, ef);
        const int64_t found = search(graph, *view, query, k, ef, asked, rows, distances, computed);
        return asked.gave_up ? 0 : found;
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" int64_t rektor_search_rows(const RektorView* view, const float* query, size_t k, const uint32_t* among,
                                      size_t count, uint32_t* rows, float* distances, uint64_t* computed) {
    try {
        return search_rows(*view, query, k, among, count, rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" int64_t rektor_scan(const RektorView* view, const float* query, size_t k, uint32_t* rows,
                               float* distances, uint64_t* computed) {
    try {
        return scan(*view, query, k, rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}
