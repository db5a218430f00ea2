// What the engine asks of C++: code kernels, the graph, searches. C types only, no exceptions across this line.
// Memory is the Rust side's, in chunks that never move; what may be read when is written down in mod.rs.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Rows of a chunk of codes, metadata, vectors or nodes: 1 << kChunkShift, as in store.rs (a test compares them).
constexpr uint32_t kChunkShift = 14;
// Rows of a page of the live bitmap: 1 << kPageShift, as in pages.rs.
constexpr uint32_t kPageShift = 15;

enum RektorMetric : uint32_t { kL2 = 0, kInnerProduct = 1, kCosine = 2 };

// The 8-bit codes of rows: x ≈ mean + scale × (code − 128).
struct RektorCodes {
    const uint8_t* const* codes;  // stride bytes a row; the bytes beyond dim are 128
    // Four floats a row: scale, squared norm of x − mean, what centring takes from its inner products, unused.
    const float* const* scales;
    const float* mean;            // dim floats
    size_t dim;
    size_t stride;  // dim rounded up to a multiple of 64
    uint32_t metric;
};

// What a search may read.
struct RektorView {
    RektorCodes codes;
    const float* const* vectors;   // dim floats a row
    const uint64_t* const* live;   // pages of the bitmap of live rows
    size_t live_pages;
    const uint32_t* const* nodes;  // the row of each node
    uint32_t linked;               // nodes below are in the graph
    uint32_t extent;               // nodes from linked to here are compared one by one
};

struct RektorGraph;

// The kernels that this processor gets: 2 AVX-512 VNNI, 1 AVX-VNNI, 0 AVX2.
uint32_t rektor_best_kernel();
// Dot product of stride code bytes (unsigned) and query bytes (signed), by kernel 0, 1 or 2. For tests.
int32_t rektor_dot(uint32_t kernel, const uint8_t* code, const int8_t* query, size_t stride);

// Gives the calling thread the least priority there is, for good.
void rektor_low_priority();

// Writes the code of x: stride bytes and four floats.
void rektor_encode(const RektorCodes* codes, const float* x, uint8_t* code, float* scale);

// A graph with room for `capacity` nodes; null when there is no memory. `like`, when not null, is copied up to
// `linked` nodes; nobody links into it meanwhile.
RektorGraph* rektor_graph_new(uint32_t m, uint32_t metric, uint32_t capacity, const RektorGraph* like, uint32_t linked);
void rektor_graph_free(RektorGraph* graph);
size_t rektor_graph_bytes(const RektorGraph* graph);
// Links a node. Several threads may link different nodes, and any number search, at the same time.
// 0 when done, -1 when there is no memory.
int32_t rektor_graph_link(RektorGraph* graph, const RektorView* view, uint32_t node, uint32_t ef_construction);

// What storing a graph takes, while it is searched and linked into. `nodes` of its nodes are linked; others do not occur.
// Level in the high half, node in the low half; UINT64_MAX when nothing is linked.
uint64_t rektor_graph_entry(const RektorGraph* graph);
// The number of levels of a node, and 1 + the next node whose row has the same code, or 0.
void rektor_graph_node(const RektorGraph* graph, uint32_t node, uint32_t nodes, uint32_t* levels, uint32_t* twin);
// The lists of a node on all its levels, each packed and filled up with -1: (levels + 1) * m slots, their number.
size_t rektor_graph_links(const RektorGraph* graph, uint32_t node, uint32_t nodes, int32_t* slots);
// A graph of these nodes with room for `capacity`. `slots` has `count` slots, all lists one after another, each slot -1 or
// a node below `nodes` that has that level; `twins` has no circle; entry < nodes <= capacity. Null when there is no
// memory, or the levels do not make `count` slots.
RektorGraph* rektor_graph_load(uint32_t m, uint32_t metric, uint32_t capacity, uint32_t nodes, const uint8_t* levels,
                               const uint32_t* twins, const int32_t* slots, size_t count, uint32_t entry);

// Finds k of the nearest live rows, nearest first, weighing ef candidates; `graph` may be null when nothing is linked.
// Returns how many, or -1 when there is no memory.
int64_t rektor_search(const RektorGraph* graph, const RektorView* view, const float* query, size_t k, size_t ef,
                      uint32_t* rows, float* distances, uint64_t* computed);
// Which rows a search may find: those that `allowed` says yes to; it is asked of live rows.
typedef bool (*RektorAllowed)(const void* context, uint32_t row);
struct RektorFilter {
    RektorAllowed allowed;
    const void* context;
    double share;           // of the live rows, that are allowed
    uint64_t most;          // the walk gives up once it has computed more distances, ...
    uint64_t most_starved;  // ... and once more than these where rows near the query are hardly ever allowed
};
// The same among the rows that are allowed; ef is what a search among all would weigh, and at least k. Returns 0 when it
// gave up.
int64_t rektor_search_allowed(const RektorGraph* graph, const RektorView* view, const float* query, size_t k, size_t ef,
                              const RektorFilter* filter, uint32_t* rows, float* distances, uint64_t* computed);
// The same among so many live rows, all of them compared by their codes.
int64_t rektor_search_rows(const RektorView* view, const float* query, size_t k, const uint32_t* among, size_t count,
                           uint32_t* rows, float* distances, uint64_t* computed);
// The same over every live row, by its stored vector.
int64_t rektor_scan(const RektorView* view, const float* query, size_t k, uint32_t* rows, float* distances,
                    uint64_t* computed);
}
