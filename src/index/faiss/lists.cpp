// FAISS's own indexes over decoded codes: inverted lists with 4-bit fast-scan codes, or what a factory string names.
// They nominate; codes and stored vectors decide, as after a walk of the graph.
#include "graph.h"

#include <faiss/IVFlib.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/index_factory.h>

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <shared_mutex>

using namespace rektor;

// FAISS forbids adding while searching. Rows are added a few at a time: this is held for less than a search takes.
struct RektorLists {
    std::unique_ptr<faiss::Index> index;
    faiss::IndexIVF* ivf = nullptr;  // within `index`, if it has lists
    std::vector<uint32_t> nodes;     // the node of each of the index's ids
    size_t row_bytes = 0;
    mutable std::shared_mutex lock;
};

namespace rektor {
namespace {

// Of an effort that is a number of candidates, a list for so many: measured on real embeddings, at 384 dimensions and
// recall .9 to .99 neither more lists nor more candidates alone cost less. (../snapshot.rs counts in it as well.)
constexpr size_t kCandidatesPerList = 4;
// Sub-quantisers of two dimensions each.
constexpr size_t kSubDimensions = 2;
// From so many lists on their centroids are searched through a graph of their own.
constexpr size_t kFlatCentroids = 512;
// Rows that one list is trained with: FAISS's advice is 39 to 256.
constexpr size_t kTrainedPerList = 64;
// Rounds of k-means: FAISS's own number for lists.
constexpr int kRounds = 10;
// Rows that are decoded and added at once.
constexpr size_t kAdded = 1024;

size_t padded(size_t dim) {
    return (dim + kSubDimensions - 1) / kSubDimensions * kSubDimensions;
}

// FAISS runs teams of threads; here a thread is one search or the linker.
void alone() {
    static thread_local bool done = false;
    if (!done) {
        omp_set_num_threads(1);
        done = true;
    }
}

// x − mean of a node's row, from its code; what lies beyond dim is 0.
void decode(const RektorView& view, uint32_t node, float* out, size_t width) {
    const uint32_t place = node_place(view, node);
    const uint8_t* code = code_of(view.codes, place);
    const float scale = scales_of(view.codes, place)[0];
    for (size_t j = 0; j < view.codes.dim; j++) {
        out[j] = scale * static_cast<float>(static_cast<int>(code[j]) - 128);
    }
    std::fill(out + view.codes.dim, out + width, 0.0f);
}

std::unique_ptr<faiss::Index> make(const char* factory, size_t dim, size_t lists, faiss::MetricType metric) {
    if (factory != nullptr) {
        return std::unique_ptr<faiss::Index>(faiss::index_factory(static_cast<int>(dim), factory, metric));
    }
    const std::string centroids = lists < kFlatCentroids ? "" : "_HNSW32";
    const size_t width = padded(dim);
    const std::string text =
            "IVF" + std::to_string(lists) + centroids + ",PQ" + std::to_string(width / kSubDimensions) + "x4fs";
    return std::unique_ptr<faiss::Index>(faiss::index_factory(static_cast<int>(width), text.c_str(), metric));
}

// Evenly spaced nodes.
std::vector<float> sample(const RektorView& view, const uint32_t* nodes, size_t count, size_t most, size_t width) {
    const size_t taken = std::min(count, most);
    std::vector<float> rows(taken * width);
    for (size_t i = 0; i < taken; i++) {
        decode(view, nodes[i * count / taken], rows.data() + i * width, width);
    }
    return rows;
}

// Rows that an index is trained with, of so many.
size_t sampled(const faiss::IndexIVF* ivf, size_t lists, size_t count) {
    return std::min(count, std::max<size_t>(ivf != nullptr ? ivf->nlist : lists, 256) * kTrainedPerList);
}

faiss::MetricType metric_of(uint32_t metric) {
    return metric == kInnerProduct ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2;
}

// Of codes, ids and links; centroids are few beside them.
size_t row_bytes(const faiss::Index& index) {
    if (const auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(&index)) {
        return row_bytes(*transformed->index);
    }
    if (const auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&index)) {
        return row_bytes(*graph->storage) +
               static_cast<size_t>(graph->hnsw.nb_neighbors(0)) * sizeof(faiss::HNSW::storage_idx_t);
    }
    if (const auto* lists = dynamic_cast<const faiss::IndexIVF*>(&index)) {
        return lists->code_size + sizeof(faiss::idx_t);
    }
    return index.sa_code_size();
}

RektorLists* create(const char* factory, const RektorView& view, const uint32_t* nodes, size_t count, size_t lists,
                    int threads) {
    auto made = std::make_unique<RektorLists>();
    made->index = make(factory, view.codes.dim, lists, metric_of(view.codes.metric));
    made->ivf = faiss::ivflib::try_extract_index_ivf(made->index.get());
    if (made->ivf != nullptr) {
        made->ivf->cp.niter = kRounds;
        made->ivf->cp.max_points_per_centroid = static_cast<int>(kTrainedPerList);
        made->ivf->cp.min_points_per_centroid = 1;
    }
    const size_t width = static_cast<size_t>(made->index->d);
    const std::vector<float> rows = sample(view, nodes, count, sampled(made->ivf, lists, count), width);
    omp_set_num_threads(threads);
    made->index->train(static_cast<faiss::idx_t>(rows.size() / width), rows.data());
    omp_set_num_threads(1);
    made->row_bytes = row_bytes(*made->index) + sizeof(uint32_t);
    return made.release();
}

void add(RektorLists& lists, const RektorView& view, const uint32_t* nodes, size_t count) {
    alone();
    const size_t width = static_cast<size_t>(lists.index->d);
    std::vector<float> rows(std::min(count, kAdded) * width);
    for (size_t from = 0; from < count; from += kAdded) {
        const size_t part = std::min(kAdded, count - from);
        for (size_t i = 0; i < part; i++) {
            decode(view, nodes[from + i], rows.data() + i * width, width);
        }
        const std::unique_lock<std::shared_mutex> held(lists.lock);
        lists.nodes.insert(lists.nodes.end(), nodes + from, nodes + from + part);
        lists.index->add(static_cast<faiss::idx_t>(part), rows.data());
    }
}

// Rows that may be found. FAISS asks of those that are near enough to matter; how many are allowed tells whether the filter
// keeps away from the query.
struct Findable : faiss::IDSelector {
    const RektorLists& lists;
    const RektorView& view;
    const RektorAllowed allowed;
    const void* const context;
    mutable uint64_t seen = 0;
    mutable uint64_t met = 0;
    Findable(const RektorLists& lists, const RektorView& view, RektorAllowed allowed, const void* context)
            : lists(lists), view(view), allowed(allowed), context(context) {}
    bool is_member(faiss::idx_t id) const override {
        const uint32_t node = lists.nodes[static_cast<size_t>(id)];
        const uint32_t row = row_of(view, node);
        if (node >= view.linked || !is_live(view, row)) {
            return false;
        }
        if (allowed == nullptr) {
            return true;
        }
        const bool may_be = allowed(context, row);
        seen++;
        met += may_be ? 1 : 0;
        return may_be;
    }
};

}  // namespace

double probe(const RektorLists& lists, const RektorView& view, const float* centred, size_t ef, RektorAllowed allowed,
             const void* context, std::vector<uint32_t>& rows) {
    alone();
    const size_t width = static_cast<size_t>(lists.index->d);
    std::vector<float> query(centred, centred + view.codes.dim);
    query.resize(width, 0.0f);
    std::vector<float> distance(ef);
    std::vector<faiss::idx_t> ids(ef);
    const std::shared_lock<std::shared_mutex> held(lists.lock);
    Findable findable(lists, view, allowed, context);
    faiss::SearchParametersIVF by_lists;
    faiss::SearchParametersHNSW by_graph;
    faiss::SearchParametersPreTransform transformed;
    faiss::SearchParameters* parameters = &by_graph;
    by_graph.sel = &findable;
    by_graph.efSearch = static_cast<int>(ef);
    if (lists.ivf != nullptr) {
        by_lists.sel = &findable;
        by_lists.nprobe = std::clamp<size_t>(ef / kCandidatesPerList, 1, lists.ivf->nlist);
        parameters = &by_lists;
    }
    if (dynamic_cast<const faiss::IndexPreTransform*>(lists.index.get()) != nullptr) {
        transformed.index_params = parameters;
        parameters = &transformed;
    }
    lists.index->search(1, query.data(), static_cast<faiss::idx_t>(ef), distance.data(), ids.data(), parameters);
    for (const faiss::idx_t id : ids) {
        if (id >= 0) {
            rows.push_back(row_of(view, lists.nodes[static_cast<size_t>(id)]));
        }
    }
    return findable.seen == 0 ? 1.0 : static_cast<double>(findable.met) / static_cast<double>(findable.seen);
}

}  // namespace rektor

extern "C" RektorLists* rektor_lists_new(const char* factory, const RektorView* view, const uint32_t* nodes,
                                         size_t count, size_t lists, uint32_t threads, char* error, size_t room) {
    try {
        return create(factory, *view, nodes, count, lists, static_cast<int>(threads));
    } catch (const std::exception& failure) {
        std::strncpy(error, failure.what(), room - 1);
        return nullptr;
    }
}

extern "C" size_t rektor_lists_sampled(const char* factory, size_t dim, uint32_t metric, size_t lists, size_t count) {
    try {
        const auto index = make(factory, dim, lists, metric_of(metric));
        return sampled(faiss::ivflib::try_extract_index_ivf(index.get()), lists, count);
    } catch (const std::exception&) {
        return 0;  // then it cannot be trained either, which says why
    }
}

extern "C" int32_t rektor_lists_check(const char* factory, size_t dim, uint32_t metric, char* error, size_t room) {
    try {
        make(factory, dim, 1, metric_of(metric));
        return 0;
    } catch (const std::exception& failure) {
        std::strncpy(error, failure.what(), room - 1);
        return -1;
    }
}

extern "C" void rektor_lists_free(RektorLists* lists) {
    delete lists;
}

extern "C" int32_t rektor_lists_add(RektorLists* lists, const RektorView* view, const uint32_t* nodes, size_t count) {
    try {
        add(*lists, *view, nodes, count);
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

extern "C" size_t rektor_lists_row_bytes(const RektorLists* lists) {
    return lists->row_bytes;
}
