// A query → the nearest live rows: through the graph and the rows not linked yet by codes, then by stored vectors.
#include "rank.h"

#include <sched.h>

#include <algorithm>

using namespace rektor;

namespace rektor {
namespace {

// Every live row may be found; nothing is to be decided on the way.
struct Every {
    RektorAllowed allowed() const {
        return nullptr;
    }
    const void* context() const {
        return nullptr;
    }
    size_t weighed(size_t ef) const {
        return ef;
    }
    bool operator()(uint32_t) const {
        return true;
    }
    bool is_far(double) const {
        return false;
    }
    bool goes_far() const {
        return true;
    }
    bool goes_on(bool, size_t*, Scratch&) {
        return true;
    }
    bool gave_up() const {
        return false;
    }
};

// Candidates over which the share of those that are allowed is averaged: enough for a share of a tenth to show.
constexpr double kRecent = 64;
// Once so many of its candidates should have been allowed, though after 32 candidates at least and 128 at most, it is known
// whether the filter keeps away from the query ...
constexpr double kTold = 16;
constexpr double kToldFrom = 32;
constexpr double kToldUntil = 128;
// ... which it does when not half as many as expected are allowed.
constexpr double kStarved = 0.5;

// In lists, what is looked at is thousands: already a share so much smaller than expected tells, and recall suffers from it.
constexpr double kFar = 0.9;
// Then they are searched once more for so many times the candidates.
constexpr size_t kFarther = 2;

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
    uint64_t met = 0;
    bool ended = false;

    Asked(const RektorFilter& filter, size_t k, size_t ef) : filter(filter), k(k), ef(ef), share(filter.share) {}

    RektorAllowed allowed() const {
        return filter.allowed;
    }
    const void* context() const {
        return filter.context;
    }
    // Candidates among all rows, of which as many are allowed as are kept.
    size_t weighed(size_t ef) const {
        return static_cast<size_t>(static_cast<double>(k) / filter.share) + ef - k;
    }
    bool operator()(uint32_t row) const {
        return filter.allowed(filter.context, row);
    }
    // Whether the filter keeps away from the query, by the share of what is near that is allowed.
    bool is_far(double near) const {
        return near < kFar * filter.share;
    }
    // Whether comparing all that are allowed costs more than searching on all the same.
    bool goes_far() const {
        return filter.most_starved > 0;
    }
    // Notes whether the walk's next candidate is allowed, and sets how many are kept. False when comparing all that are
    // allowed is cheaper than going on.
    bool goes_on(bool is_allowed, size_t* keeps, Scratch& s) {
        seen++;
        met += is_allowed ? 1 : 0;
        share += ((is_allowed ? 1.0 : 0.0) - share) / kRecent;
        const double expected = filter.share * static_cast<double>(seen);
        const bool told = static_cast<double>(seen) >= std::clamp(kTold / filter.share, kToldFrom, kToldUntil);
        const bool starved = told && static_cast<double>(met) < kStarved * expected;
        *keeps = starved ? ef : k + static_cast<size_t>(static_cast<double>(ef - k) * share);
        while (s.best.size() > *keeps) {
            std::pop_heap(s.best.begin(), s.best.end(), Nearer());
            s.best.pop_back();
        }
        // Until as many are kept as are to be, all that it meets is compared by codes and gone on from: that is slow.
        const uint64_t most_starved = s.best.size() < *keeps ? std::min(filter.most, filter.most_starved) : filter.most_starved;
        ended = s.computed > (starved ? most_starved : filter.most);
        return !ended;
    }
    bool gave_up() const {
        return ended;
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
        const uint32_t row = row_of(view, node);
        if (node < view.linked && is_live(view, row) && allows(row)) {
            keep(s.best, ef, {of.distance, row});
        }
        twin = load(graph.twins + node);
    }
}

// Leaves the ef nearest live linked rows that are allowed in s.best; not all of them where it gives up.
template <class Distances, class Allows>
void walk(const RektorGraph& graph, const RektorView& view, const Distances& distances, size_t& ef, Allows& allows,
          Scratch& s) {
    const uint64_t entry = graph.entry.load(std::memory_order_acquire);
    if (entry == kNoEntry) {
        return;
    }
    auto [start, level] = begin_walk(graph, view, distances, entry, s);
    for (; level > 0; level--) {
        start = descend(graph, view, distances, level, start, s);
    }
    explore(graph, view, distances, 0, ef, start, s, [&](Candidate c) {
        // Nodes from `linked` on are scanned instead.
        const uint32_t row = row_of(view, c.id);
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
template <class Distances, class Allows>
void scan_head(const RektorView& view, const Distances& distances, size_t ef, const Allows& allows,
               Scratch& s) {
    uint32_t rows[kBatch];
    uint32_t ids[kBatch];
    uint32_t which[kBatch];
    float found[kBatch];
    for (uint32_t node = view.linked; node < view.extent;) {
        size_t count = 0;
        for (; node < view.extent && count < kBatch; node++) {
            const uint32_t row = row_of(view, node);
            if (is_live(view, row) && allows(row)) {
                ids[count] = distances.of_node(view, node);
                rows[count++] = row;
            }
        }
        const size_t near = distances.within(ids, count, reach_of(s.best, ef), which, found);
        s.computed += count;
        for (size_t i = 0; i < near; i++) {
            keep(s.best, ef, {found[i], rows[which[i]]});
        }
    }
}

template <class Allows>
int64_t search(const RektorGraph* graph, const RektorLists* lists, const RektorView& view, const float* x, size_t k,
               size_t ef, const Allows& allows, uint32_t* rows, float* distances, uint64_t* computed) {
    Scratch& s = scratch();
    s.computed = 0;
    Query query = code_query(view.codes, x, s.query);
    sign_query(view.codes, query, s.query);
    const bool all = graph == nullptr && lists == nullptr;
    if (all) {
        ef = std::max(ef, scanned_for(k));
    }
    std::vector<uint32_t> listed;
    if (lists != nullptr) {
        ef = allows.weighed(ef);
        const auto look = [&] {
            listed.clear();
            return probe(*lists, view, s.query.values.data(), ef, allows.allowed(), allows.context(), listed);
        };
        if (allows.is_far(look())) {
            if (!allows.goes_far()) {
                return 0;
            }
            ef *= kFarther;
            look();
        }
    }
    const auto gather = [&](const auto& by) {
        s.best.clear();
        compare_rows(listed.data(), listed.size(), by, ef, kEverywhere, s);
        if (graph != nullptr) {
            Allows now = allows;  // each walk counts anew
            walk(*graph, view, by, ef, now, s);
            if (now.gave_up()) {
                *computed = s.computed;
                return false;
            }
        }
        scan_head(view, by, ef, allows, s);
        return true;
    };
    const ByVector by_vector(view, x, view.codes.metric);
    if (!gather(ByCode(view, query))) {
        return 0;
    }
    if (!rank(view, query, by_vector, k, ef, all, s)) {
        if (!gather(by_vector)) {
            return 0;
        }
        rank_again(view, by_vector, k, s);
    }
    return give_ranked(by_vector, k, rows, distances, computed, s);
}

}  // namespace
}  // namespace rektor

extern "C" void rektor_idle_priority() {
    // Of the thread. Not by its nice value, which only says how large its share is: once it runs, others wait for its slice
    // to end. May be refused: then it competes as the others do.
    const sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
}

extern "C" int64_t rektor_search(const RektorGraph* graph, const RektorLists* lists, const RektorView* view,
                                 const float* query, size_t k, size_t ef, uint32_t* rows, float* distances,
                                 uint64_t* computed) {
    try {
        return search(graph, lists, *view, query, k, ef, Every(), rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" int64_t rektor_search_allowed(const RektorGraph* graph, const RektorLists* lists, const RektorView* view,
                                         const float* query, size_t k, size_t ef, const RektorFilter* filter,
                                         uint32_t* rows, float* distances, uint64_t* computed) {
    try {
        return search(graph, lists, *view, query, k, ef, Asked(*filter, k, ef), rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}
