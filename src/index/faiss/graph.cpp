// A node → its place in the graph; see graph.h for the order in which it becomes visible.
#include "graph.h"

#include <algorithm>

using namespace rektor;

namespace rektor {
namespace {

// Rows as points to which distances are taken, by their codes.
struct CodePoints {
    const RektorView& view;
    Measure measure;
    Coded& memory;
    Query query{};

    ByCode of_node(uint32_t node) {
        query = row_query(view.codes, node_place(view, node), measure, memory);
        return ByCode(view, query);
    }
};
// The same by their vectors: where codes cannot tell rows apart.
struct VectorPoints {
    const RektorView& view;
    Measure measure;

    ByVector of_node(uint32_t node) {
        return ByVector(view, row_of(view, node), measure);
    }
};

// Candidates so many times farther (the square, where distances are compared by it) than the fourth nearest are far: what is near is a bunch of its own, …
constexpr float kFar = 16;
constexpr size_t kBunchAtLeast = 4;
// … and a far one is left out only for a node that is much nearer to it, not for any of the bunch that happens to be a
// little nearer: that one need not know it, and the bunch would be cut off. So many in each four links are kept for them.
constexpr float kMuchNearer = 0.5;
constexpr size_t kFarShare = 4;

// The distance from which candidates, sorted, are far; by inner product, which is no distance, none are.
float far_from(Measure measure, const std::vector<Candidate>& candidates) {
    if (measure == Measure::kDot || candidates.size() <= kBunchAtLeast) {
        return std::numeric_limits<float>::infinity();
    }
    // Codes of near copies may be as good as equal.
    constexpr float kNothing = 1e-6f;
    const float last = candidates.back().distance;
    const float near = std::max(candidates[kBunchAtLeast - 1].distance, last * kNothing);
    return near > 0 ? near * kFar : std::numeric_limits<float>::infinity();
}

// One in so many slots of a list is filled with the nearest that were refused, where fewer were chosen. Where directions have no
// order and lengths differ much (normal rows × log-normal lengths, by L2, 64 dimensions), all are nearer to the few short rows
// than to each other, and two links a node were chosen: recall .33 at effort 64. Half the slots give .57, a quarter .02–.05
// less; but real embeddings and a million clustered rows then have 2 % more distances, with a quarter hardly any more.
constexpr size_t kFilledShare = 4;

// FAISS's (and HNSW's) choice: from near to far, each that is nearer to the new node than to any chosen before.
// Equals are refused, or copies of one row would use up every list.
template <class Points>
void choose(const RektorView& view, Points points, const std::vector<Candidate>& candidates, size_t most,
            std::vector<uint32_t>& chosen) {
    chosen.clear();
    uint32_t chosen_ids[kBatch];
    const float far = far_from(points.measure, candidates);
    const auto is_near = [&](const Candidate& candidate) { return !(candidate.distance > far); };
    const size_t distant = static_cast<size_t>(
            candidates.end() - std::partition_point(candidates.begin(), candidates.end(), is_near));
    const size_t most_near = most - std::min(distant, most / kFarShare);
    for (const Candidate& candidate : candidates) {
        const bool near = is_near(candidate);
        if (near && chosen.size() >= most_near) {
            continue;
        }
        const auto distances = points.of_node(candidate.id);
        const float nearer = near ? candidate.distance : candidate.distance * kMuchNearer;
        bool good = true;
        for (size_t i = 0; good && i < chosen.size(); i++) {
            good = distances.one(chosen_ids[i]) > nearer;
        }
        if (good) {
            chosen_ids[chosen.size()] = distances.of_node(view, candidate.id);
            chosen.push_back(candidate.id);
            if (chosen.size() == most) {
                return;
            }
        }
    }
    for (size_t i = 0; chosen.size() < most / kFilledShare && i < candidates.size(); i++) {
        const uint32_t node = candidates[i].id;
        if (std::find(chosen.begin(), chosen.end(), node) == chosen.end()) {
            chosen.push_back(node);
        }
    }
}

// Lists drop a node that only so many name for no other: one that none names is never found, and one that a few do, only by
// a walk that meets just these. Measured (40,000 × 128, clusters, effort 64), rows not found by their own vector, and
// recall: dropped freely .68 % and .969; 1: .47 % and .969; 2: .28 % and .968; 3: .17 % and .968; 4: .10 % and .968, with
// one in a hundred more distances.
constexpr uint32_t kLeastInLinks = 3;
// But no more of a list than this share is for them: where all lists name the same few rows, as short ones among long, the lists of
// these few would keep the first that came for good, and lead nowhere else (normal rows × log-normal lengths, 384 dimensions,
// effort 64: recall .14, and .59 when dropped freely).
constexpr size_t kNamedShare = 4;

// Not by inner product: there all lists name the few large rows, and theirs would keep small ones for the large.
bool counts_in_links(int level, uint32_t half) {
    return level == 0 && half == 0;
}

void add_in_link(RektorGraph& graph, uint32_t node) {
    __atomic_fetch_add(graph.in_links + node, 1, __ATOMIC_RELAXED);
}

bool is_named_seldom(const RektorGraph& graph, uint32_t node) {
    return __atomic_load_n(graph.in_links + node, __ATOMIC_RELAXED) <= kLeastInLinks;
}

// Takes one away, if enough are left.
bool drop_in_link(RektorGraph& graph, uint32_t node) {
    uint32_t count = __atomic_load_n(graph.in_links + node, __ATOMIC_RELAXED);
    while (count > kLeastInLinks) {
        if (__atomic_compare_exchange_n(graph.in_links + node, &count, count - 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
            return true;
        }
    }
    return false;
}

// Adds to what was chosen of a list's candidates those that too few other lists name; where there is no room, in place of
// the farthest chosen that enough do.
void keep_named(RektorGraph& graph, const std::vector<Candidate>& candidates, size_t most, std::vector<uint32_t>& kept) {
    size_t replaceable = kept.size();
    size_t named = static_cast<size_t>(
            std::count_if(kept.begin(), kept.end(), [&](uint32_t node) { return is_named_seldom(graph, node); }));
    for (const Candidate& candidate : candidates) {
        const bool is_kept = std::find(kept.begin(), kept.end(), candidate.id) != kept.end();
        if (is_kept || drop_in_link(graph, candidate.id)) {
            continue;
        }
        if (++named > most / kNamedShare) {
            __atomic_fetch_sub(graph.in_links + candidate.id, 1, __ATOMIC_RELAXED);
            continue;
        }
        if (kept.size() < most) {
            kept.push_back(candidate.id);
            continue;
        }
        while (replaceable > 0 && !drop_in_link(graph, kept[replaceable - 1])) {
            replaceable--;
        }
        if (replaceable > 0) {
            kept[--replaceable] = candidate.id;
        } else {
            __atomic_fetch_sub(graph.in_links + candidate.id, 1, __ATOMIC_RELAXED);
        }
    }
}

// Adds `to` to the list of `from`, which may drop others for it, or it for others.
template <class Points>
void add_link(RektorGraph& graph, const RektorView& view, Points points, uint32_t from, uint32_t to, int level,
              uint32_t half, Scratch& s) {
    const std::lock_guard<std::mutex> lock(graph.locks[from % kLocks]);
    const Links links = links_of(graph, from, level, half);
    if (links.slots[links.count - 1] < 0) {
        size_t free = 0;
        while (links.slots[free] >= 0) {
            free++;
        }
        store(links.slots + free, static_cast<int32_t>(to));
        if (counts_in_links(level, half)) {
            add_in_link(graph, to);
        }
        return;
    }
    uint32_t nodes[kBatch];
    uint32_t ids[kBatch];
    float found[kBatch];
    const auto distances = points.of_node(from);
    for (size_t i = 0; i <= links.count; i++) {
        nodes[i] = i < links.count ? static_cast<uint32_t>(links.slots[i]) : to;
        ids[i] = distances.of_node(view, nodes[i]);
    }
    distances.many(ids, links.count + 1, found);
    s.list.clear();
    for (size_t i = 0; i <= links.count; i++) {
        s.list.push_back({found[i], nodes[i]});
    }
    std::sort(s.list.begin(), s.list.end(), Nearer());
    choose(view, points, s.list, links.count, s.kept);
    if (counts_in_links(level, half)) {
        add_in_link(graph, to);
        keep_named(graph, s.list, links.count, s.kept);
    }
    for (size_t i = 0; i < links.count; i++) {
        store(links.slots + i, i < s.kept.size() ? static_cast<int32_t>(s.kept[i]) : -1);
    }
}

// Whether the rows of nodes are copies: of the same code, and not only nearly of the same vector.
bool same(const RektorView& view, uint32_t one, uint32_t other) {
    const RektorCodes& codes = view.codes;
    const uint32_t a = node_place(view, one);
    const uint32_t b = node_place(view, other);
    if (std::memcmp(code_of(codes, a), code_of(codes, b), codes.stride) != 0) {
        return false;
    }
    if (of_bits(codes.metric)) {
        return true;
    }
    const float* x = scales_of(codes, a);
    const float* y = scales_of(codes, b);
    if (x[0] != y[0] || x[1] != y[1]) {
        return false;
    }
    // Cosine distances of copies, of whatever length, differ from zero by the rounding of floats.
    constexpr float kRounding = 5e-7f;
    const float distance = ByVector(view, row_of(view, one), Measure::kSquare).one(row_of(view, other));
    return distance <= (codes.metric == kCosine ? kRounding : 0);
}

// Copies of a row hang on the first of them: linked, they would form a region with no way out.
bool hang_on_twin(RektorGraph& graph, const RektorView& view, uint32_t node, const std::vector<Candidate>& near) {
    for (const Candidate& candidate : near) {
        if (same(view, node, candidate.id)) {
            const std::lock_guard<std::mutex> lock(graph.locks[candidate.id % kLocks]);
            store(graph.twins + node, load(graph.twins + candidate.id));
            store(graph.twins + candidate.id, static_cast<int32_t>(node + 1));
            __atomic_fetch_or(graph.twin_bits + candidate.id / 64, uint64_t{1} << (candidate.id % 64),
                              __ATOMIC_RELEASE);
            return true;
        }
    }
    return false;
}

// Writes the lists of a node that nobody can reach yet.
void write_lists(RektorGraph& graph, uint32_t node, int level, int linked_levels, const Scratch& s) {
    for (uint32_t half = 0; half < graph.halves; half++) {
        for (int l = 0; l <= level; l++) {
            const Links links = links_of(graph, node, l, half);
            const size_t known = l < linked_levels ? s.chosen[half][l].size() : 0;
            for (size_t i = 0; i < links.count; i++) {
                store(links.slots + i, i < known ? static_cast<int32_t>(s.chosen[half][l][i]) : -1);
                if (i < known && counts_in_links(l, half)) {
                    add_in_link(graph, s.chosen[half][l][i]);
                }
            }
        }
    }
}

// True if the node is now the first of an empty graph.
bool link_first(RektorGraph& graph, uint32_t node, int level, const Scratch& s) {
    const std::lock_guard<std::mutex> lock(graph.first);
    if (graph.entry.load(std::memory_order_acquire) != kNoEntry) {
        return false;
    }
    write_lists(graph, node, level, 0, s);
    graph.entry.store(static_cast<uint64_t>(level) << 32 | node, std::memory_order_release);
    return true;
}

// Whether codes cannot tell apart the nearest that a walk for links found.
bool hopeless_near(const RektorView& view, const Query& query, const std::vector<Candidate>& near) {
    // Fewer rows in one place are all found by a walk that finds one of them.
    constexpr size_t kBunch = 16;
    if (near.size() < kBunch || of_bits(view.codes.metric)) {
        return false;
    }
    const Candidate& last = near[kBunch - 1];
    const Doubt off = doubt(view.codes, query, node_place(view, last.id), last.distance);
    return hopeless(off, near.front().distance, last.distance);
}

// Chooses what a half of the node's lists will hold, on the levels that the graph has; false if it hangs on a twin.
bool find_links(RektorGraph& graph, const RektorView& view, uint32_t node, uint64_t entry, size_t ef, uint32_t half,
                Scratch& s) {
    const int level = std::min(graph.hnsw.levels[node] - 1, static_cast<int>(entry >> 32));
    const uint32_t place = node_place(view, node);
    Query query = row_query(view.codes, place, s.measure, s.query);
    sign_row_query(view.codes, place, query, s.query);
    const ByCode by_code(view, query);
    const ByVector by_vector(view, row_of(view, node), s.measure);
    const Start landmark = begin_walk(graph, view, by_code, entry, s);
    Start from = landmark;
    if (level > landmark.level) {  // the lists above hold nodes of their level
        from = first_node(view, by_code, entry, s);
    }
    Candidate start = from.at;
    for (int l = from.level; l > level; l--) {
        start = descend(graph, view, by_code, l, start, s);
    }
    s.chosen[half].resize(std::max<size_t>(s.chosen[half].size(), level + 1));
    for (int l = level; l >= 0; l--) {
        const auto admit = [&](Candidate c) { keep(s.best, ef, c); };
        if (l == landmark.level && landmark.at.distance < start.distance) {
            start = landmark.at;
        }
        explore(graph, view, by_code, l, ef, start, s, admit);
        std::sort_heap(s.best.begin(), s.best.end(), Nearer());
        const bool exact = hopeless_near(view, query, s.best);
        if (exact) {
            start.distance = by_vector.one(row_of(view, start.id));
            explore(graph, view, by_vector, l, ef, start, s, admit);
            std::sort_heap(s.best.begin(), s.best.end(), Nearer());
        }
        start = s.best.front();
        if (l == 0 && hang_on_twin(graph, view, node, s.best)) {
            return false;
        }
        const size_t most = links_of(graph, node, l, half).count;
        if (exact) {
            choose(view, VectorPoints{view, s.measure}, s.best, most, s.chosen[half][l]);
            start.distance = by_code.one(node_place(view, start.id));
        } else {
            choose(view, CodePoints{view, s.measure, s.other}, s.best, most, s.chosen[half][l]);
        }
        s.exact_levels[half] = l == level ? uint64_t{exact} << l : s.exact_levels[half] | uint64_t{exact} << l;
    }
    return true;
}

void link(RektorGraph& graph, const RektorView& view, uint32_t node, size_t ef, Scratch& s) {
    const int level = graph.hnsw.levels[node] - 1;
    if (graph.entry.load(std::memory_order_acquire) == kNoEntry && link_first(graph, node, level, s)) {
        return;
    }
    constexpr Measure kMeasures[] = {Measure::kSquare, Measure::kDot};
    const uint64_t entry = graph.entry.load(std::memory_order_acquire);
    for (uint32_t half = 0; half < graph.halves; half++) {
        s.measure = kMeasures[half];
        if (!find_links(graph, view, node, entry, ef, half, s)) {
            return;
        }
    }
    const int levels = std::min(level, static_cast<int>(entry >> 32)) + 1;
    write_lists(graph, node, level, levels, s);
    for (int l = 0; l < levels; l++) {
        for (uint32_t half = 0; half < graph.halves; half++) {
            const Measure measure = kMeasures[half];
            for (const uint32_t other : s.chosen[half][l]) {
                if ((s.exact_levels[half] >> l & 1) != 0) {
                    add_link(graph, view, VectorPoints{view, measure}, other, node, l, half, s);
                } else {
                    add_link(graph, view, CodePoints{view, measure, s.other}, other, node, l, half, s);
                }
            }
        }
    }
    uint64_t now = entry;
    while (static_cast<int>(now >> 32) < level &&
           !graph.entry.compare_exchange_weak(now, static_cast<uint64_t>(level) << 32 | node)) {
    }
}

}  // namespace

void count_in_links(RektorGraph& graph, uint32_t nodes) {
    const auto each = [&](uint32_t node, const auto& work) {
        const Links links = links_of(graph, node, 0, 0);
        for (size_t i = 0; !is_alone(graph, node) && i < links.count && links.slots[i] >= 0; i++) {
            work(static_cast<uint32_t>(links.slots[i]));
        }
    };
    for (uint32_t node = 0; node < nodes; node++) {
        each(node, [&](uint32_t to) { add_in_link(graph, to); });
    }
    for (uint32_t node = 0; node < nodes; node++) {
        each(node, [&](uint32_t from) {
            const Links links = links_of(graph, from, 0, 0);
            int32_t* end = links.slots + links.count;
            int32_t* free = std::find(links.slots, end, -1);
            if (graph.in_links[node] == 0 && free != end) {
                *free = static_cast<int32_t>(node);
                add_in_link(graph, node);
            }
        });
    }
}

std::atomic<uint64_t> visited_bytes{0};

Scratch& scratch() {
    static thread_local Scratch s;
    return s;
}

}  // namespace rektor

extern "C" uint64_t rektor_visited_bytes() {
    return rektor::visited_bytes.load(std::memory_order_relaxed);
}

extern "C" int32_t rektor_graph_link(RektorGraph* graph, const RektorView* view, uint32_t node, uint32_t linked,
                                     uint32_t ef) {
    RektorView now = *view;
    now.linked = linked;  // walks begin at any of these
    try {
        link(*graph, now, node, ef, scratch());
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}
