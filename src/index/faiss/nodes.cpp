// Room for a graph's nodes; copies of it, with more room or with other numbers; what of it is stored. Links nothing.
#include "graph.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

using namespace rektor;

namespace rektor {
namespace {

template <class T>
T* map_zeroed(size_t count) {
    // At least one page: an empty mapping is an error.
    void* memory = mmap(nullptr, std::max<size_t>(count * sizeof(T), 1), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        throw std::bad_alloc();
    }
    madvise(memory, count * sizeof(T), MADV_HUGEPAGE);  // may be refused: then it is only slower
    return static_cast<T*>(memory);
}

template <class T>
void unmap(T* memory, size_t count) {
    if (memory != nullptr) {
        munmap(memory, std::max<size_t>(count * sizeof(T), 1));
    }
}

// Slots of all lists of a node but the lowest.
size_t slots_above(const RektorGraph& graph, int levels) {
    return static_cast<size_t>(graph.hnsw.cum_nb_neighbors(levels)) - graph.width;
}

// Makes room for `capacity` nodes, of which the first have their levels.
void allocate(RektorGraph& graph, uint32_t metric, uint32_t capacity) {
    faiss::HNSW& hnsw = graph.hnsw;
    // Levels do not depend on the rows, so every node to come has its level and its place now.
    while (hnsw.levels.size() < capacity) {
        const int level = hnsw.random_level();
        hnsw.levels.push_back(level + 1);
        hnsw.offsets.push_back(hnsw.offsets.back() + slots_above(graph, level + 1));
    }
    graph.upper.assign(hnsw.cum_nneighbor_per_level.size(), {});
    for (uint32_t node = 0; node < capacity; node++) {
        for (int level = 1; level < hnsw.levels[node]; level++) {
            graph.upper[static_cast<size_t>(level)].push_back(node);
        }
    }
    while (!graph.upper.empty() && graph.upper.back().empty()) {
        graph.upper.pop_back();
    }
    const size_t slots = hnsw.offsets.back();
    hnsw.neighbors = faiss::MaybeOwnedVector<int32_t>::create_view(map_zeroed<int32_t>(slots), slots, nullptr);
    graph.capacity = capacity;
    graph.lowest = map_zeroed<int32_t>(size_t{capacity} * graph.width);
    graph.twins = map_zeroed<int32_t>(capacity);
    graph.twin_bits = map_zeroed<uint64_t>(capacity / 64 + 1);
    graph.in_links = map_zeroed<uint32_t>(capacity);
    graph.halves = metric == kInnerProduct ? 2 : 1;
    graph.locks = std::make_unique<std::mutex[]>(kLocks);
}

// Copies the first nodes of a graph and their lists, into one that has the same room and levels for them.
void copy_nodes(RektorGraph& graph, const RektorGraph& like, uint32_t linked) {
    const size_t used = like.hnsw.offsets[linked];
    std::memcpy(graph.hnsw.neighbors.view_data, like.hnsw.neighbors.view_data, used * sizeof(int32_t));
    std::memcpy(graph.lowest, like.lowest, size_t{linked} * graph.width * sizeof(int32_t));
    std::memcpy(graph.twins, like.twins, linked * sizeof(int32_t));
    std::memcpy(graph.twin_bits, like.twin_bits, (linked / 64 + 1) * sizeof(uint64_t));
    std::memcpy(graph.in_links, like.in_links, linked * sizeof(uint32_t));
    graph.entry.store(like.entry.load());
}

// The same with other numbers: the node that `order` names for a number had the one named.
void copy_renumbered(RektorGraph& graph, const RektorGraph& like, uint32_t linked, const uint32_t* order) {
    std::vector<uint32_t> numbers(linked);
    for (uint32_t node = 0; node < linked; node++) {
        numbers[order[node]] = node;
    }
    const auto renumber = [&](const int32_t* from, int32_t* to, size_t count) {
        std::transform(from, from + count, to, [&](int32_t old) {
            // Lists end with −1. A node beyond is of a link that was broken off, after which nobody searches.
            return old >= 0 && static_cast<uint32_t>(old) < linked ? static_cast<int32_t>(numbers[old]) : old;
        });
    };
    const auto& offsets = graph.hnsw.offsets;
    for (uint32_t node = 0; node < linked; node++) {
        const uint32_t old = order[node];
        graph.in_links[node] = like.in_links[old];
        if (has_twins(like, old)) {
            graph.twin_bits[node / 64] |= uint64_t{1} << (node % 64);
        }
        const int32_t twin = like.twins[old] - 1;
        renumber(&twin, graph.twins + node, 1);
        graph.twins[node]++;
        const int32_t* lowest = like.lowest + size_t{old} * graph.width;
        const bool written = !is_alone(like, old) || *lowest < 0;
        if (!written) {
            continue;  // nothing but zeros tells so
        }
        renumber(lowest, graph.lowest + size_t{node} * graph.width, graph.width);
        renumber(like.hnsw.neighbors.view_data + like.hnsw.offsets[old], graph.hnsw.neighbors.view_data + offsets[node],
                 offsets[node + 1] - offsets[node]);
    }
    const uint64_t entry = like.entry.load();
    if (entry != kNoEntry) {
        graph.entry.store((entry >> 32 << 32) | numbers[static_cast<uint32_t>(entry)]);
    }
}

}  // namespace
}  // namespace rektor

RektorGraph::~RektorGraph() {
    unmap(hnsw.neighbors.view_data, hnsw.neighbors.view_size);
    unmap(lowest, size_t{capacity} * width);
    unmap(twins, capacity);
    unmap(twin_bits, capacity / 64 + 1);
    unmap(in_links, capacity);
}

extern "C" RektorGraph* rektor_graph_new(uint32_t m, uint32_t metric, uint32_t capacity, const RektorGraph* like,
                                         uint32_t linked, const uint32_t* order) {
    try {
        auto graph = std::make_unique<RektorGraph>(m);
        faiss::HNSW& hnsw = graph->hnsw;
        hnsw.levels.reserve(capacity);
        hnsw.offsets.reserve(capacity + 1);
        if (like != nullptr) {
            hnsw.levels = like->hnsw.levels;
            hnsw.offsets = like->hnsw.offsets;
            hnsw.rng = like->hnsw.rng;
        }
        for (uint32_t node = 0; order != nullptr && node < linked; node++) {
            hnsw.levels[node] = like->hnsw.levels[order[node]];
            hnsw.offsets[node + 1] = hnsw.offsets[node] + slots_above(*graph, hnsw.levels[node]);
        }
        allocate(*graph, metric, capacity);
        if (order != nullptr) {
            copy_renumbered(*graph, *like, linked, order);
        } else if (like != nullptr) {
            copy_nodes(*graph, *like, linked);
        }
        return graph.release();
    } catch (const std::exception&) {
        return nullptr;
    }
}

extern "C" void rektor_graph_free(RektorGraph* graph) {
    delete graph;
}

extern "C" size_t rektor_graph_bytes(const RektorGraph* graph, uint32_t nodes) {
    // Levels and offsets are written for all there is room for, the others page by page.
    const faiss::HNSW& hnsw = graph->hnsw;
    size_t upper = 0;
    for (const auto& of_level : graph->upper) {
        upper += of_level.size() * sizeof(uint32_t);
    }
    return upper + graph->capacity * (sizeof(int32_t) + sizeof(size_t)) + kLocks * sizeof(std::mutex) +
           (hnsw.offsets[nodes] + size_t{nodes} * graph->width) * sizeof(int32_t) + nodes * (sizeof(int32_t) + sizeof(uint32_t)) + nodes / 8;
}

extern "C" uint64_t rektor_graph_entry(const RektorGraph* graph) {
    return graph->entry.load(std::memory_order_acquire);
}

extern "C" void rektor_graph_node(const RektorGraph* graph, uint32_t node, uint32_t nodes, uint32_t* levels,
                                  uint32_t* twin) {
    *levels = static_cast<uint32_t>(graph->hnsw.levels[node]);
    int32_t next = load(graph->twins + node);
    while (next > static_cast<int32_t>(nodes)) {
        next = load(graph->twins + (next - 1));
    }
    *twin = static_cast<uint32_t>(next);
}

extern "C" size_t rektor_graph_links(const RektorGraph* graph, uint32_t node, uint32_t nodes, int32_t* slots) {
    size_t written = 0;
    for (int level = 0; level < graph->hnsw.levels[node]; level++) {
        for (uint32_t half = 0; half < graph->halves; half++) {
            const Links links = links_of(*graph, node, level, half);
            size_t kept = 0;
            for (size_t i = 0; i < links.count; i++) {
                const int32_t to = load(links.slots + i);
                if (to < 0) {
                    break;
                }
                if (to < static_cast<int32_t>(nodes) && graph->hnsw.levels[to] > level) {
                    slots[written + kept++] = to;
                }
            }
            std::fill(slots + written + kept, slots + written + links.count, -1);
            written += links.count;
        }
    }
    return written;
}

extern "C" RektorGraph* rektor_graph_load(uint32_t m, uint32_t metric, uint32_t capacity, uint32_t nodes,
                                          const uint8_t* levels, const uint32_t* twins, const int32_t* slots,
                                          size_t count, uint32_t entry) {
    try {
        auto graph = std::make_unique<RektorGraph>(m);
        faiss::HNSW& hnsw = graph->hnsw;
        hnsw.levels.reserve(capacity);
        hnsw.offsets.reserve(capacity + 1);
        for (uint32_t node = 0; node < nodes; node++) {
            if (levels[node] == 0 || levels[node] >= hnsw.cum_nneighbor_per_level.size()) {
                return nullptr;
            }
            hnsw.levels.push_back(levels[node]);
            hnsw.offsets.push_back(hnsw.offsets.back() + slots_above(*graph, levels[node]));
        }
        if (hnsw.offsets.back() + size_t{nodes} * graph->width != count) {
            return nullptr;
        }
        allocate(*graph, metric, capacity);
        for (uint32_t node = 0; node < nodes; node++) {
            const size_t above = hnsw.offsets[node + 1] - hnsw.offsets[node];
            std::copy_n(slots, graph->width, graph->lowest + size_t{node} * graph->width);
            std::copy_n(slots + graph->width, above, hnsw.neighbors.view_data + hnsw.offsets[node]);
            slots += graph->width + above;
            graph->twins[node] = static_cast<int32_t>(twins[node]);
            if (twins[node] != 0) {
                graph->twin_bits[node / 64] |= uint64_t{1} << (node % 64);
            }
        }
        count_in_links(*graph, nodes);
        graph->entry.store(static_cast<uint64_t>(levels[entry] - 1) << 32 | entry);
        return graph.release();
    } catch (const std::exception&) {
        return nullptr;
    }
}
