// A query → the nearest live rows: through the graph and the rows not linked yet by codes, then by stored vectors.
#include "graph.h"

#include <sched.h>

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
        ended = s.computed > (starved ? filter.most_starved : filter.most);
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

// How many deviations off a code may be before its row is left out unseen …
constexpr double kSure = 3;
// … and before so many candidates by codes are taken to hold all that matter: one in twenty rows as near as the last of
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

// Compares as many of the candidates in s.best by their vectors as may be among the k nearest, by what their codes may be
// off by. False if codes are of no use: there may be other rows, not among the candidates, that codes put no farther away.
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

// Ranks all of s.best, which are the k nearest by their vectors.
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

// Rows that are named at a time: what names them stays in the nearest cache.
constexpr size_t kNamed = 1024;

// Adds the nearest of those rows to s.best: all that are nearer than `reach` and among the ef nearest.
template <class Distances>
void compare_rows(const uint32_t* rows, size_t count, const Distances& distances, size_t ef, float reach, Scratch& s) {
    uint32_t ids[kNamed];
    uint32_t which[kBatch];
    float found[kBatch];
    for (size_t begun = 0; begun < count; begun += kNamed) {
        const size_t named = std::min(kNamed, count - begun);
        for (size_t i = 0; i < named; i++) {
            ids[i] = distances.of_row(rows[begun + i]);
        }
        for (size_t done = 0; done < named; done += kBatch) {
            const float nearer = std::min(reach, reach_of(s.best, ef));
            const size_t batch = std::min(kBatch, named - done);
            const size_t near = distances.within(ids + done, batch, nearer, which, found, named - done);
            for (size_t i = 0; i < near; i++) {
                keep(s.best, ef, {found[i], rows[begun + done + which[i]]});
            }
        }
    }
    s.computed += count;
}

// Gives the marked rows, of whose words of 64 bits `sampled(word)` has those that count, in blocks.
template <class Sampled, class Take>
void each_block(const RektorAmong& among, Sampled sampled, Take take) {
    uint32_t rows[kNamed + 64];
    size_t count = 0;
    for (size_t word = 0; word < among.words; word++) {
        for (uint64_t rest = among.marks[word] & sampled(word); rest != 0; rest &= rest - 1) {
            rows[count++] = static_cast<uint32_t>(word * 64) + static_cast<uint32_t>(__builtin_ctzll(rest));
        }
        if (count >= kNamed) {
            take(rows, count);
            count = 0;
        }
    }
    take(rows, count);
}

// The same as `compare_rows` of the marked rows that count.
template <class Distances, class Sampled>
void compare_marked(const RektorAmong& among, const Distances& distances, size_t ef, float reach, Sampled sampled, Scratch& s) {
    each_block(among, sampled, [&](const uint32_t* rows, size_t count) { compare_rows(rows, count, distances, ef, reach, s); });
}

// From so many marked rows on, ...
constexpr size_t kSampledFrom = 4096;
// ... one of so many (of a power of two, 64 at most) tells beforehand how near those are that will be kept, ...
constexpr size_t kSampled = 16;
// ... if signs are off by up to so many deviations: what is wrong with that shows afterwards.
constexpr float kSignsSampled = 1;

// A distance within which so many of the marked rows are, in all likelihood, and few others: else, while the reach is made out
// by the rows themselves, two in five would not be left out by their signs.
float likely_reach(const RektorView& view, const Query& query, const RektorAmong& among, size_t wanted, Scratch& s) {
    size_t marked = 0;
    for (size_t word = 0; word < among.words; word++) {
        marked += static_cast<size_t>(__builtin_popcountll(among.marks[word]));
    }
    if (query.turned == nullptr || marked < std::max(kSampledFrom, kSampled * wanted)) {
        return kEverywhere;
    }
    const double expected = static_cast<double>(wanted) / kSampled;
    const size_t ef = static_cast<size_t>(expected + 3 * std::sqrt(expected)) + 2;
    s.best.clear();
    const auto sampled = [](size_t word) { return (~uint64_t{0} / ((uint64_t{1} << kSampled) - 1)) << word * 7 % kSampled; };
    compare_marked(among, ByCode(view, query, kSignsSampled), ef, kEverywhere, sampled, s);
    return reach_of(s.best, ef);
}

// Rows that codes cannot tell from the last of the answer: where there are more, all are compared by their vectors, which costs
// no more than to find and sort them.
constexpr size_t kAlike = 4096;

// What codes put farther than this is no nearer than the last in s.exact, however far off they are likely to be.
float sure_reach(const RektorView& view, const Query& query, const ByVector& by_vector, const Scratch& s) {
    const double last = by_vector.comparable(key_distance(s.exact.front()));
    double off = 0;
    for (const Candidate& c : s.best) {
        const Doubt of = doubt(view.codes, query, place_of(view.codes, c.id), last);
        off = std::max(off, of.bias + kSure * std::sqrt(of.variance));
    }
    return ordered(static_cast<float>(last + off - query.whole(0)));
}

// Candidates that a scan keeps for k rows: among so many codes are mostly sure to have them.
size_t scanned_for(size_t k) {
    return 4 * k + 8;
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

int64_t search_among(const RektorView& view, const float* x, size_t k, const RektorAmong& among, uint32_t* rows,
                     float* distances, uint64_t* computed) {
    const size_t wanted = scanned_for(k);
    Scratch& s = scratch();
    s.computed = 0;
    Query query = code_query(view.codes, x, s.query);
    sign_query(view.codes, query, s.query);
    // Whether the ef nearest were found, which those within a reach may not be.
    const auto gather = [&](const auto& by, size_t ef, float reach) {
        s.best.clear();
        compare_rows(among.rows, among.count, by, ef, reach, s);
        compare_marked(among, by, ef, reach, [](size_t) { return ~uint64_t{0}; }, s);
        return reach == kEverywhere || reach_of(s.best, ef) <= reach;
    };
    const ByVector by_vector(view, x, view.codes.metric);
    const ByCode by_code(view, query, kSignsCompared);
    if (!gather(by_code, wanted, likely_reach(view, query, among, wanted, s))) {
        gather(by_code, wanted, kEverywhere);
    }
    if (rank(view, query, by_vector, k, wanted, true, s)) {
        return give_ranked(by_vector, k, rows, distances, computed, s);
    }
    // Many are as near as the last of the answer.
    const size_t most = std::max(kAlike, wanted);
    gather(by_code, most, sure_reach(view, query, by_vector, s));
    if (!rank(view, query, by_vector, k, most, true, s)) {
        gather(by_vector, wanted, kEverywhere);
        rank_again(view, by_vector, k, s);
    }
    return give_ranked(by_vector, k, rows, distances, computed, s);
}

// One of the queries that are answered together.
struct Sought {
    Coded coded;
    Query query;
    std::vector<Candidate> best;
};

// The same as `search_among` for each of the queries. Rows are compared with all of them while they are in the cache: one
// query after the other waits for memory, and that is most of what it costs.
void search_among_many(const RektorView& view, const float* queries, size_t count, size_t k, const RektorAmong& among,
                       uint32_t* rows, float* distances, int64_t* found) {
    const size_t wanted = scanned_for(k);
    const size_t dim = view.codes.dim;
    Scratch& s = scratch();
    std::vector<Sought> all(count);
    for (size_t i = 0; i < count; i++) {
        all[i].query = code_query(view.codes, queries + i * dim, all[i].coded);
        sign_query(view.codes, all[i].query, all[i].coded);
    }
    const auto compare_block = [&](const uint32_t* block, size_t size) {
        for (Sought& one : all) {
            s.best.swap(one.best);
            compare_rows(block, size, ByCode(view, one.query, kSignsCompared), wanted, kEverywhere, s);
            s.best.swap(one.best);
        }
    };
    for (size_t done = 0; done < among.count; done += kNamed) {
        compare_block(among.rows + done, std::min(kNamed, among.count - done));
    }
    each_block(among, [](size_t) { return ~uint64_t{0}; }, compare_block);
    uint64_t computed = 0;
    for (size_t i = 0; i < count; i++) {
        const float* x = queries + i * dim;
        const ByVector by_vector(view, x, view.codes.metric);
        s.best.swap(all[i].best);
        found[i] = rank(view, all[i].query, by_vector, k, wanted, true, s)
                ? give_ranked(by_vector, k, rows + i * k, distances + i * k, &computed, s)
                : search_among(view, x, k, among, rows + i * k, distances + i * k, &computed);
    }
}

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

extern "C" int64_t rektor_search_among(const RektorView* view, const float* query, size_t k, const RektorAmong* among,
                                       uint32_t* rows, float* distances, uint64_t* computed) {
    try {
        return search_among(*view, query, k, *among, rows, distances, computed);
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" int32_t rektor_search_among_many(const RektorView* view, const float* queries, size_t count, size_t k,
                                            const RektorAmong* among, uint32_t* rows, float* distances, int64_t* found) {
    try {
        search_among_many(*view, queries, count, k, *among, rows, distances, found);
        return 0;
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
