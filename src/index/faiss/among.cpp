// A query and the rows that meet a filter → the nearest of them, all compared: by signs, codes and stored vectors, as far as
// each is needed to tell. Never through the graph.
#include "rank.h"

#include <algorithm>
#include <iterator>

using namespace rektor;

namespace rektor {
namespace {

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

// All marked rows.
constexpr auto kAll = [](size_t) { return ~uint64_t{0}; };

// From so many marked rows on, ...
constexpr size_t kSampledFrom = 4096;
// ... one of so many (of a power of two, 64 at most) tells beforehand how near those are that will be kept, ...
constexpr size_t kSampled = 16;
// ... if signs are off by up to so many deviations: what is wrong with that shows afterwards.
constexpr float kSignsSampled = 1;

// Rows that codes cannot tell from the last of the answer: where there are more, all are compared by their vectors, which costs
// no more than to find and sort them.
constexpr size_t kAlike = 4096;

// Of rows that were compared those that are within `slack` of the best, in s.noted: when it turns out how near the last of the answer
// is, what its code may be off by is no reason to compare all once more.
struct Notes {
    std::vector<Candidate>& rows;
    float slack = 0;
    bool is_full = true;  // and then of no use

    void begin(float from) {
        rows.clear();
        slack = from;
        is_full = false;
    }
    void add(Candidate candidate, float reach) {
        if (is_full || candidate.distance > reach + slack) {
            return;
        }
        if (rows.size() + 1 >= kAlike) {
            const auto is_far = [&](const Candidate& c) { return c.distance > reach + slack; };
            rows.erase(std::remove_if(rows.begin(), rows.end(), is_far), rows.end());
            is_full = rows.size() > kAlike / 2;  // lest it be gone through again and again
        }
        rows.push_back(candidate);
    }
};

// What codes of the candidates may be off by, in all likelihood, where the true distance is `truth`.
double off_by(const RektorView& view, const Query& query, double truth, const Scratch& s) {
    double off = 0;
    for (const Candidate& c : s.best) {
        const Doubt of = doubt(view.codes, query, place_of(view.codes, c.id), truth);
        off = std::max(off, of.bias + kSure * std::sqrt(of.variance));
    }
    return off;
}

// What codes put farther than this is no nearer than the last that was ranked, however far off they are likely to be.
float sure_reach(const RektorView& view, const Query& query, const ByVector& by_vector, const Scratch& s) {
    const double last = by_vector.comparable(last_ranked(s));
    return ordered(static_cast<float>(last + off_by(view, query, last, s) - query.whole(0)));
}

// A distance within which so many of the marked rows are, in all likelihood, and few others: else, while the reach is made out
// by the rows themselves, two in five would not be left out by their signs. Begins notes of what may be as near by its code.
float likely_reach(const RektorView& view, const Query& query, const RektorAmong& among, size_t wanted, Scratch& s,
                   Notes& notes) {
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
    const ByCode by_code(view, query, kSignsSampled);
    each_block(among, sampled, [&](const uint32_t* rows, size_t count) { compare_rows(rows, count, by_code, ef, kEverywhere, s); });
    const float reach = reach_of(s.best, ef);
    if (reach < kEverywhere) {
        // The last of the answer is nearer than that, or by as much farther as its code is off.
        notes.begin(2 * static_cast<float>(off_by(view, query, query.whole(reach), s)));
    }
    return reach;
}

int64_t search_among(const RektorView& view, const float* x, size_t k, const RektorAmong& among, uint32_t* rows,
                     float* distances, uint64_t* computed) {
    const size_t wanted = scanned_for(k);
    Scratch& s = scratch();
    s.computed = 0;
    Query query = code_query(view.codes, x, s.query);
    sign_query(view.codes, query, s.query);
    // Whether the ef nearest were found, which those within a reach may not be.
    const auto gather = [&](const auto& by, size_t ef, float reach, auto& notes) {
        s.best.clear();
        const auto compare = [&](const uint32_t* block, size_t count) { compare_rows(block, count, by, ef, reach, s, notes); };
        compare(among.rows, among.count);
        each_block(among, kAll, compare);
        return reach == kEverywhere || reach_of(s.best, ef) <= reach;
    };
    const NoNotes none;
    Notes notes{s.noted};
    const ByVector by_vector(view, x, view.codes.metric);
    const ByCode by_code(view, query, kSignsCompared);
    if (!gather(by_code, wanted, likely_reach(view, query, among, wanted, s, notes), notes)) {
        notes.rows.clear();
        gather(by_code, wanted, kEverywhere, notes);
    }
    const float known = notes.is_full ? -kEverywhere : reach_of(s.best, wanted) + notes.slack;
    if (rank(view, query, by_vector, k, wanted, true, s)) {
        return give_ranked(by_vector, k, rows, distances, computed, s);
    }
    // Many are as near as the last of the answer.
    const size_t found = s.exact.size();
    const size_t most = std::max(kAlike, wanted);
    const float sure = sure_reach(view, query, by_vector, s);
    if (sure <= known) {
        s.best.clear();
        const auto is_near = [&](const Candidate& c) { return c.distance <= sure; };
        std::copy_if(notes.rows.begin(), notes.rows.end(), std::back_inserter(s.best), is_near);
    } else {
        gather(by_code, most, sure, none);
    }
    if (s.best.size() < found || !rank(view, query, by_vector, k, most, true, s)) {
        gather(by_vector, wanted, kEverywhere, none);
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
    each_block(among, kAll, compare_block);
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

}  // namespace
}  // namespace rektor

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

