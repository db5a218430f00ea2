// Stored vectors, whatever form they are kept in → floats.
#pragma once

#include "codes.h"

namespace rektor {

inline size_t vector_bytes(const RektorView& view) {
    return view.codes.dim * (view.storage == kF32 ? sizeof(float) : sizeof(uint16_t));
}

// count halves, or upper halves of floats, as floats.
void widen(uint32_t storage, const uint16_t* halves, size_t count, float* out);
// The row as its code has it.
void decode(const RektorCodes& codes, uint32_t row, float* out);

// Room for dim floats, this thread's.
float* wide(size_t dim);

// The words of a row; what is not kept as floats is good until this thread asks for the next.
inline const float* vector_of(const RektorView& view, uint32_t row) {
    if (view.storage == kF32) {
        return reinterpret_cast<const float*>(at(view.vectors, row, view.codes.dim * sizeof(float)));
    }
    float* out = wide(view.codes.dim);
    if (view.storage == kCode) {
        decode(view.codes, row, out);
    } else {
        const uint8_t* halves = at(view.vectors, row, view.codes.dim * sizeof(uint16_t));
        widen(view.storage, reinterpret_cast<const uint16_t*>(halves), view.codes.dim, out);
    }
    return out;
}

inline void prefetch_vector(const RektorView& view, uint32_t row) {
    if (view.storage == kCode) {
        return;  // it was compared a moment ago
    }
    const size_t bytes = vector_bytes(view);
    const uint8_t* x = at(view.vectors, row, bytes);
    for (size_t j = 0; j < bytes; j += 64) {
        __builtin_prefetch(x + j);
    }
}

// Vectors may be on disk, where the system took their pages away: then each that is touched is waited for before the next.
// A thread that had to wait has those of its next searches read all at once, before it touches the first.
class Comparing {
public:
    Comparing();
    // A row that will be compared.
    void wants(const RektorView& view, uint32_t row) const;
    // So many were compared since the beginning.
    void compared(const RektorView& view, size_t rows);

private:
    uint64_t began;
    bool slow;
};

}  // namespace rektor
