// FAISS's HNSW structure, grown while it is searched.
//
// The arrays are FAISS's (`levels`, `offsets`, `neighbors`, sizes per level, level distribution), but for the lists of the
// lowest level, which have a place of their own where they are found by their number alone: nearly all of a walk is there,
// and each table that is looked into is one more page to be translated. There is room for
// `capacity` nodes from the start, so that nothing ever moves. Linking and walking are our own, because
// `HNSW::add_with_locks` makes a node reachable on an upper level before it has links below, and reads and writes
// without order; see `link` for the order that makes concurrent searches see only whole nodes:
//   1. A node's own lists, on all its levels, are written before any other list names it.
//   2. Lists name it from level 0 upwards, so whoever meets it on a level can go down from there.
//   3. Every slot of a list is read with acquire and written with release: whoever reads a node's number sees 1.
//   4. The entry point and its level are one word, set last.
//   5. A list is changed under its node's lock, by linkers only; readers may meet a mixture of the list before and
//      after, each slot of which is a node of that level.
#pragma once

#include "distance.h"

#include <faiss/impl/HNSW.h>

#include <atomic>
#include <memory>
#include <mutex>

constexpr uint64_t kNoEntry = UINT64_MAX;

// For inner product a list has two halves: the nearest by L2, and the best by inner product. By L2 alone nothing links
// to the few large rows that are the answers when norms differ much (recall .65 at k = 10 over log-normal norms); by
// inner product alone nothing links to small ones (.69 at k = 100).
struct RektorGraph {
    faiss::HNSW hnsw;
    uint32_t halves = 1;
    uint32_t capacity = 0;
    // Slots of a list of the lowest level, both halves; `offsets` leave them out.
    uint32_t width;
    int32_t* lowest = nullptr;
    // Level in the high half, node in the low half.
    std::atomic<uint64_t> entry{kNoEntry};
    // For each node of the graph: 1 + the next node whose row has the same code, or 0. Such nodes have no links.
    int32_t* twins = nullptr;
    // A bit for each node with twins, set after them: small enough to stay in the cache, which `twins` is not.
    uint64_t* twin_bits = nullptr;
    // For each node of the graph, how many lists of level 0 name it, those by L2 if there are halves. Linkers only.
    uint32_t* in_links = nullptr;
    // For each level above the lowest the nodes that have it, linked or to come, by number.
    std::vector<std::vector<uint32_t>> upper;
    // By node number modulo their count.
    std::unique_ptr<std::mutex[]> locks;
    // Taken to link the first node.
    std::mutex first;

    explicit RektorGraph(uint32_t m)
            : hnsw(static_cast<int>(m)), width(static_cast<uint32_t>(hnsw.cum_nneighbor_per_level[1])) {}
    RektorGraph(const RektorGraph&) = delete;
    ~RektorGraph();
};

namespace rektor {

constexpr size_t kLocks = 4096;

struct Candidate {
    float distance;
    // A node, or a row among results.
    uint32_t id;
};
// Orders as types, so that they are inlined.
struct Nearer {
    bool operator()(const Candidate& a, const Candidate& b) const {
        return a.distance < b.distance;
    }
};
struct Farther {
    bool operator()(const Candidate& a, const Candidate& b) const {
        return a.distance > b.distance;
    }
};

struct Links {
    int32_t* slots;
    size_t count;
};
// The list of a node on a level, or a half of it: packed, its end marked by −1.
inline Links links_of(const RektorGraph& graph, uint32_t node, int level, uint32_t half) {
    if (level == 0) {
        const size_t count = graph.width / graph.halves;
        return {graph.lowest + size_t{node} * graph.width + half * count, count};
    }
    const auto& cumulated = graph.hnsw.cum_nneighbor_per_level;
    int32_t* above = graph.hnsw.neighbors.view_data + graph.hnsw.offsets[node];
    const size_t count = static_cast<size_t>(cumulated[level + 1] - cumulated[level]) / graph.halves;
    return {above + (static_cast<size_t>(cumulated[level]) - graph.width) + half * count, count};
}
inline void prefetch_links(const RektorGraph& graph, uint32_t node, int level) {
    const char* list = reinterpret_cast<const char*>(links_of(graph, node, level, 0).slots);
    __builtin_prefetch(list);
    __builtin_prefetch(list + 64);
}
inline int32_t load(const int32_t* slot) {
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}
inline void store(int32_t* slot, int32_t node) {
    __atomic_store_n(slot, node, __ATOMIC_RELEASE);
}

inline bool has_twins(const RektorGraph& graph, uint32_t node) {
    return (__atomic_load_n(graph.twin_bits + node / 64, __ATOMIC_ACQUIRE) >> (node % 64) & 1) != 0;
}

// Bytes that threads hold for what they visited.
extern std::atomic<uint64_t> visited_bytes;

// Memory that is counted there.
template <class T>
struct Counted {
    using value_type = T;
    Counted() = default;
    template <class U>
    Counted(const Counted<U>&) {}
    T* allocate(size_t count) {
        T* const memory = std::allocator<T>().allocate(count);
        visited_bytes.fetch_add(count * sizeof(T), std::memory_order_relaxed);
        return memory;
    }
    void deallocate(T* memory, size_t count) {
        visited_bytes.fetch_sub(count * sizeof(T), std::memory_order_relaxed);
        std::allocator<T>().deallocate(memory, count);
    }
    bool operator==(const Counted&) const { return true; }
    bool operator!=(const Counted&) const { return false; }
};

// What a walk needs; one a thread, kept from walk to walk.
struct Scratch {
    std::vector<uint64_t, Counted<uint64_t>> visited;  // a bit for each node: a small table stays near
    std::vector<uint32_t, Counted<uint32_t>> marked;   // the nodes whose bits are set
    std::vector<Candidate> frontier;  // nearest on top
    std::vector<Candidate> best;      // farthest on top
    std::vector<Candidate> noted;     // while all allowed rows are compared: what may be as near as the best (among.cpp)
    Coded query;
    Coded other;
    std::vector<std::vector<uint32_t>> chosen[2];  // while linking: by half, and level
    uint64_t exact_levels[2] = {};                 // the levels on which these were chosen by vectors
    std::vector<uint32_t> kept;
    Measure measure = Measure::kSquare;
    std::vector<Candidate> list;
    std::vector<uint64_t> exact;
    uint64_t computed = 0;

    // Nothing visited, of `nodes` nodes.
    void begin(size_t nodes) {
        for (const uint32_t node : marked) {
            visited[node / 64] = 0;
        }
        marked.clear();
        if (visited.size() * 64 < nodes) {
            visited.resize(nodes / 64 + 1, 0);
        }
    }
    // So that who marks nodes can always note that.
    void make_room(size_t nodes) {
        if (marked.capacity() - marked.size() < nodes) {
            marked.reserve(2 * marked.size() + nodes);
        }
    }
    // Whether the node was not visited before; the caller adds it to `marked`.
    bool visit(uint32_t node) {
        uint64_t& word = visited[node / 64];
        const uint64_t bit = uint64_t{1} << (node % 64);
        const bool first = (word & bit) == 0;
        word |= bit;
        return first;
    }
};
Scratch& scratch();

// Counts what the lists of a loaded graph name. Those that lost all their links, to nodes that were not stored, get one
// from a node that they name, where its list has room.
void count_in_links(RektorGraph& graph, uint32_t nodes);

// Adds the `ef` live rows that FAISS's own index puts nearest to a centred query, of those that are allowed, if not null.
// Returns the share of those looked at that were.
double probe(const RektorLists& lists, const RektorView& view, const float* centred, size_t ef, RektorAllowed allowed,
             const void* context, std::vector<uint32_t>& rows);

// The distance from which on nothing is kept any more.
inline float reach_of(const std::vector<Candidate>& best, size_t most) {
    return best.size() < most ? kEverywhere : best.front().distance;
}

// Keeps the `most` nearest in a heap with the farthest on top.
inline void keep(std::vector<Candidate>& best, size_t most, Candidate candidate) {
    if (best.size() < most) {
        best.push_back(candidate);
        std::push_heap(best.begin(), best.end(), Nearer());
    } else if (candidate.distance < best.front().distance) {
        std::pop_heap(best.begin(), best.end(), Nearer());
        best.back() = candidate;
        std::push_heap(best.begin(), best.end(), Nearer());
    }
}

// Goes from `start` to ever nearer nodes on a level, until none is.
template <class Distances>
Candidate descend(const RektorGraph& graph, const RektorView& view, const Distances& distances, int level,
                  Candidate start, Scratch& s) {
    uint32_t nodes[kBatch];
    uint32_t ids[kBatch];
    uint32_t which[kBatch];
    float found[kBatch];
    for (Candidate best = start;; start = best) {
        size_t count = 0;
        for (uint32_t half = 0; half < graph.halves; half++) {
            const Links links = links_of(graph, start.id, level, half);
            for (size_t i = 0; i < links.count; i++) {
                const int32_t node = load(links.slots + i);
                if (node < 0) {
                    break;
                }
                nodes[count] = static_cast<uint32_t>(node);
                ids[count++] = distances.of_node(view, static_cast<uint32_t>(node));
            }
        }
        const size_t near = distances.within(ids, count, best.distance, which, found);
        s.computed += count;
        for (size_t i = 0; i < near; i++) {
            if (found[i] < best.distance) {
                best = {found[i], nodes[which[i]]};
            }
        }
        if (best.id == start.id) {
            return best;
        }
    }
}

// Whether nothing leads on from a linked node: its row was dead, or hangs on a twin, and its lists were never written, or
// nothing else is linked.
inline bool is_alone(const RektorGraph& graph, uint32_t node) {
    for (uint32_t half = 0; half < graph.halves; half++) {
        const int32_t* slots = links_of(graph, node, 0, half).slots;
        const int32_t first = load(slots);
        if (first >= 0 && !(first == 0 && load(slots + 1) == 0)) {
            return false;
        }
    }
    return true;
}

// Where walks begin: all nodes of the lowest level that has at most so many are compared. Some share of every group of rows
// is among them, so that a walk comes to groups to which no link leads: where one has thousands of near copies, their links
// are to each other.
constexpr size_t kLandmarks = 256;

struct Start {
    Candidate at;
    int level;
};

// The entry of the graph, on its highest level.
template <class Distances>
Start first_node(const RektorView& view, const Distances& distances, uint64_t entry, Scratch& s) {
    const uint32_t node = static_cast<uint32_t>(entry);
    s.computed++;
    return {{distances.one(distances.of_node(view, node)), node}, static_cast<int>(entry >> 32)};
}

template <class Distances>
Start begin_walk(const RektorGraph& graph, const RektorView& view, const Distances& distances, uint64_t entry, Scratch& s) {
    Start start = first_node(view, distances, entry, s);
    const auto few = [&](const std::vector<uint32_t>& nodes) {
        return nodes.size() <= kLandmarks || nodes[kLandmarks] >= view.linked;
    };
    size_t level = graph.upper.size();
    while (level > 1 && few(graph.upper[level - 1])) {
        level--;
    }
    if (level == graph.upper.size()) {
        return start;
    }
    const std::vector<uint32_t>& nodes = graph.upper[level];
    uint32_t ids[kBatch];
    uint32_t which[kBatch];
    float found[kBatch];
    for (size_t done = 0; done < nodes.size() && nodes[done] < view.linked;) {
        size_t count = 0;
        while (count < kBatch && done + count < nodes.size() && nodes[done + count] < view.linked) {
            ids[count] = distances.of_node(view, nodes[done + count]);
            count++;
        }
        const size_t near = distances.within(ids, count, start.at.distance, which, found);
        s.computed += count;
        for (size_t i = 0; i < near; i++) {
            const uint32_t node = nodes[done + which[i]];
            if (found[i] < start.at.distance && !is_alone(graph, node)) {
                start.at = {found[i], node};
            }
        }
        done += count;
    }
    start.level = static_cast<int>(level);
    return start;
}

// Candidates from which a walk goes on at a time: their neighbours come from memory together, and few are looked at for nothing.
constexpr size_t kTogether = 3;

// Walks a level from `start`, nearest first, calling admit(candidate) for each node near enough; it stops when `best`
// holds `ef`, which admit may change, and all of them are nearer than what is left.
template <class Distances, class Admit>
void explore(const RektorGraph& graph, const RektorView& view, const Distances& distances, int level, const size_t& ef,
             Candidate start, Scratch& s, Admit admit) {
    s.begin(graph.capacity);
    s.frontier.clear();
    s.best.clear();
    s.make_room(kBatch);
    s.visit(start.id);
    s.marked.push_back(start.id);
    s.frontier.push_back(start);
    admit(start);
    uint32_t nodes[kBatch];
    uint32_t ids[kBatch];
    uint32_t which[kBatch];
    float found[kBatch];
    const size_t most = links_of(graph, start.id, level, 0).count * graph.halves;
    for (bool more = true; more;) {
        // Of a few at once, so that their rows come from memory together.
        const size_t room = std::min(kTogether * most, kBatch);
        size_t count = 0;
        more = false;
        s.make_room(kBatch);
        for (size_t taken = 0; taken + most <= room && !s.frontier.empty(); taken += most) {
            std::pop_heap(s.frontier.begin(), s.frontier.end(), Farther());
            const Candidate from = s.frontier.back();
            s.frontier.pop_back();
            if (s.best.size() >= ef && from.distance > s.best.front().distance) {
                break;
            }
            more = true;
            for (uint32_t half = 0; half < graph.halves; half++) {
                const Links links = links_of(graph, from.id, level, half);
                for (size_t i = 0; i < links.count; i++) {
                    const int32_t node = load(links.slots + i);
                    if (node < 0) {
                        break;
                    }
                    // No branch: whether a node was visited cannot be foretold.
                    nodes[count] = static_cast<uint32_t>(node);
                    count += s.visit(static_cast<uint32_t>(node)) ? 1 : 0;
                }
            }
        }
        s.marked.insert(s.marked.end(), nodes, nodes + count);
        for (size_t i = 0; i < count; i++) {
            ids[i] = distances.of_node(view, nodes[i]);
        }
        const size_t near = distances.within(ids, count, reach_of(s.best, ef), which, found);
        s.computed += count;
        for (size_t i = 0; i < near; i++) {
            if (s.best.size() < ef || found[i] < s.best.front().distance) {
                const Candidate candidate{found[i], nodes[which[i]]};
                prefetch_links(graph, candidate.id, level);
                s.frontier.push_back(candidate);
                std::push_heap(s.frontier.begin(), s.frontier.end(), Farther());
                admit(candidate);
            }
        }
    }
}

}  // namespace rektor
