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

enum RektorMetric : uint32_t { kL2 = 0, kInnerProduct = 1, kCosine = 2, kL1 = 3, kHamming = 4, kJaccard = 5 };

// The 8-bit codes of rows: x ≈ mean + scale × (code − 128). Under Hamming and Jaccard the rows themselves: bits.
struct RektorCodes {
    const uint8_t* const* codes;  // stride bytes a row; the bytes beyond dim are 128, those of bits 0
    // `beside` floats a row: scale, squared norm of x − mean less what rounding does to it, what centring takes from its
    // inner products; where there are more than four, what its signs are multiplied with, and its signs (signs.h).
    const float* const* scales;
    size_t beside;
    // 1 + where each row's code and what is beside it are; null where they are at the row's own number.
    const uint32_t* const* places;
    const float* mean;            // dim floats
    size_t dim;     // words of a stored row: its components, or 32 bits each
    size_t stride;  // dim rounded up to a multiple of 64; of bits 4 × dim, and neither scales nor a mean
    uint32_t metric;
};

// How stored vectors are kept: as words (of bits too), as IEEE halves, as the upper halves of floats, as codes alone.
enum RektorStorage : uint32_t { kF32 = 0, kF16 = 1, kBf16 = 2, kCode = 3 };

// What a search may read.
struct RektorView {
    RektorCodes codes;
    const uint8_t* const* vectors; // dim words a row, or halves; null where codes are all that is kept
    uint32_t storage;              // RektorStorage
    const uint64_t* const* live;   // pages of the bitmap of live rows
    size_t live_pages;
    const uint32_t* const* nodes;  // the row of each node
    uint32_t laid_out;             // nodes below are where their codes are
    uint32_t linked;               // nodes below are in the graph
    uint32_t extent;               // nodes from linked to here are compared one by one
};

struct RektorGraph;

// The kernels that this processor gets: 2 AVX-512 VNNI, 1 AVX-VNNI, 0 AVX2.
uint32_t rektor_best_kernel();
// Dot product of stride code bytes (unsigned) and query bytes (signed), by kernel 0, 1 or 2. For tests.
int32_t rektor_dot(uint32_t kernel, const uint8_t* code, const int8_t* query, size_t stride);
// Sum of |query − scale × (code − 128)| over stride components. For tests.
float rektor_manhattan(uint32_t kernel, const uint8_t* code, const float* query, float scale, size_t stride);

// Distance of bytes of bits under kHamming or kJaccard, by kernel 0, AVX2, or 1, AVX-512 VPOPCNTDQ. For tests.
uint32_t rektor_best_bit_kernel();
float rektor_bits(uint32_t kernel, uint32_t metric, const uint8_t* a, const uint8_t* b, size_t bytes);

// Gives the calling thread the least priority there is, for good.
void rektor_idle_priority();

// Of rows, at most 256, those that may be nearer to the query than `reach`, by kernel 0, 1 or 2, if signs are off by up to so
// many deviations: their places and distances; how many. As rows that follow each other, if `swept`. For tests.
size_t rektor_within(uint32_t kernel, const RektorCodes* codes, const float* query, const uint32_t* rows, size_t count,
                     float reach, float deviations, bool swept, uint32_t* which, float* found);

// Writes the signs of a code, where rows have them, into what stands beside it.
void rektor_sign(const RektorCodes* codes, const uint8_t* code, float* scale);
// Writes the code of x: stride bytes and four floats.
void rektor_encode(const RektorCodes* codes, const float* x, uint8_t* code, float* scale);

// Of so many places, at least one, that whose code is the nearest to the code at a place of others around the same mean. Not of
// bits.
uint32_t rektor_nearest(const RektorCodes* codes, const uint32_t* places, size_t count, const RektorCodes* others,
                        uint32_t place);

// count components as kF16 or kBf16 keeps them, and back. Under kCosine kF16 may keep a multiple.
void rektor_narrow(uint32_t storage, uint32_t metric, const float* x, size_t count, uint16_t* out);
void rektor_widen(uint32_t storage, const uint16_t* halves, size_t count, float* out);

// A graph with room for `capacity` nodes; null when there is no memory. `like`, when not null, is copied up to
// `linked` nodes; nobody links into it meanwhile. These are numbered anew where `order` is not null: it has each of their
// numbers once, in the order of the new ones.
RektorGraph* rektor_graph_new(uint32_t m, uint32_t metric, uint32_t capacity, const RektorGraph* like, uint32_t linked,
                              const uint32_t* order);
void rektor_graph_free(RektorGraph* graph);
// Bytes that it holds when so many of its nodes are linked.
size_t rektor_graph_bytes(const RektorGraph* graph, uint32_t nodes);
// Links a node. All nodes below `linked` are linked or left out, whatever the view says. Several threads may link different
// nodes, and any number search, at the same time. 0 when done, -1 when there is no memory.
int32_t rektor_graph_link(RektorGraph* graph, const RektorView* view, uint32_t node, uint32_t linked,
                          uint32_t ef_construction);

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

struct RektorLists;

// An index of FAISS's own, trained with `count` nodes and empty: of that many inverted lists, or what a factory string
// says. Null when it cannot be; `error` then says why, in `room` bytes.
RektorLists* rektor_lists_new(const char* factory, const RektorView* view, const uint32_t* nodes, size_t count,
                              size_t lists, uint32_t threads, char* error, size_t room);
// Rows of `count` that it would be trained with, as floats; 0 if it cannot be.
size_t rektor_lists_sampled(const char* factory, size_t dim, uint32_t metric, size_t lists, size_t count);
// Whether there can be such an index of so many dimensions: 0, or -1 and the reason.
int32_t rektor_lists_check(const char* factory, size_t dim, uint32_t metric, char* error, size_t room);
void rektor_lists_free(RektorLists* lists);
// Adds nodes, by one thread at a time; any number may search. 0 when done, -1 when there is no memory.
int32_t rektor_lists_add(RektorLists* lists, const RektorView* view, const uint32_t* nodes, size_t count);
// Bytes a row.
size_t rektor_lists_row_bytes(const RektorLists* lists);

// Bytes that all threads hold to know the nodes that a walk visited.
uint64_t rektor_visited_bytes();

// Finds k of the nearest live rows, nearest first, weighing ef candidates, of `graph` or of `lists`; both may be null
// when nothing is linked.
// Returns how many, or -1 when there is no memory.
int64_t rektor_search(const RektorGraph* graph, const RektorLists* lists, const RektorView* view, const float* query,
                       size_t k, size_t ef, uint32_t* rows, float* distances, uint64_t* computed);
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
int64_t rektor_search_allowed(const RektorGraph* graph, const RektorLists* lists, const RektorView* view,
                              const float* query, size_t k, size_t ef, const RektorFilter* filter, uint32_t* rows,
                              float* distances, uint64_t* computed);
// Live rows: so many, in order, and those whose bits are set in so many words.
struct RektorAmong {
    const uint32_t* rows;
    size_t count;
    const uint64_t* marks;
    size_t words;
};
// The same among these, all of them compared by their codes.
int64_t rektor_search_among(const RektorView* view, const float* query, size_t k, const RektorAmong* among, uint32_t* rows,
                            float* distances, uint64_t* computed);
// The same for so many queries, each of `dim` words: k rows and distances each, and in `found` how many. 0 when done, -1 when
// there is no memory.
int32_t rektor_search_among_many(const RektorView* view, const float* queries, size_t count, size_t k,
                                 const RektorAmong* among, uint32_t* rows, float* distances, int64_t* found);
// Of so many words of marks, a bit for each ordinal, leaves those of ordinals in one of `count` ranges, each two numbers: the
// least and the greatest.
void rektor_keep_in_ranges(const uint64_t* ordinals, const uint64_t* ranges, size_t count, uint64_t* marks, size_t words);
// The same over every live row, by its stored vector.
int64_t rektor_scan(const RektorView* view, const float* query, size_t k, uint32_t* rows, float* distances,
                    uint64_t* computed);
}
