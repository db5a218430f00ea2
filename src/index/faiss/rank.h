// Candidates → the nearest by their stored vectors; and rows compared one by one, which makes them candidates.
#pragma once

#include "graph.h"

namespace rektor {

// How many deviations off a code may be before its row is left out unseen.
constexpr double kSure = 3;

// Compares as many of the candidates in s.best by their vectors as may be among the k nearest, by what their codes may be
// off by. False if codes are of no use: there may be other rows, not among the candidates, that codes put no farther away.
bool rank(const RektorView& view, Query& query, const ByVector& by_vector, size_t k, size_t ef, bool all, Scratch& s);
// Ranks all of s.best, which are the k nearest by their vectors.
void rank_again(const RektorView& view, const ByVector& by_vector, size_t k, Scratch& s);
// The distance of the last of so many that were ranked, of which there is one.
float last_ranked(const Scratch& s);
// What was ranked, nearest first, with the distances that operators give; how many.
int64_t give_ranked(const ByVector& by_vector, size_t k, uint32_t* rows, float* distances, uint64_t* computed, Scratch& s);

// Candidates that a scan keeps for k rows: among so many codes are mostly sure to have them.
inline size_t scanned_for(size_t k) {
    return 4 * k + 8;
}

// Rows that are named at a time: what names them stays in the nearest cache.
constexpr size_t kNamed = 1024;

// Takes no note of rows that are compared.
struct NoNotes {
    static constexpr float slack = 0;
    void add(Candidate, float) const {}
};

// Adds the nearest of those rows to s.best: all that are within `reach` and among the ef nearest. Notes all that are no farther
// than the last of these was then, and `slack`.
template <class Distances, class Notes>
void compare_rows(const uint32_t* rows, size_t count, const Distances& distances, size_t ef, float reach, Scratch& s,
                  Notes& notes) {
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
            const size_t near = distances.within(ids + done, batch, nearer + notes.slack, which, found, named - done);
            for (size_t i = 0; i < near; i++) {
                const Candidate candidate{found[i], rows[begun + done + which[i]]};
                notes.add(candidate, nearer);
                if (found[i] <= reach) {
                    keep(s.best, ef, candidate);
                }
            }
        }
    }
    s.computed += count;
}
template <class Distances>
void compare_rows(const uint32_t* rows, size_t count, const Distances& distances, size_t ef, float reach, Scratch& s) {
    const NoNotes none;
    compare_rows(rows, count, distances, ef, reach, s, none);
}

}  // namespace rektor
