// Dot products and L1 distances of byte codes, and distances of bits, chosen once for the processor. No FAISS header here: kernels.cpp has functions compiled
// for newer processors, into which nothing shared with the rest of the program may be inlined.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rektor {

struct Kernels {
    // out[i] = Σ codes[i][j] × query[j] over stride bytes; prefetches the codes ahead.
    void (*dots)(const int8_t* query, const uint8_t* const* codes, size_t count, size_t stride, int32_t* out);
    // One of them.
    int32_t (*dot)(const int8_t* query, const uint8_t* code, size_t stride);
    // out[i] = Σ |query[j] − scales[i][0] × (codes[i][j] − 128)| over stride components; prefetches the codes ahead.
    void (*manhattans)(const float* query, const uint8_t* const* codes, const float* const* scales, size_t count,
                       size_t stride, float* out);
    // One of them.
    float (*manhattan)(const float* query, const uint8_t* code, float scale, size_t stride);
    // signed_code[j] = code[j] − 128; returns their sum.
    int32_t (*to_signed)(const uint8_t* code, int8_t* signed_code, size_t stride);
};

// 2 AVX-512 VNNI, 1 AVX-VNNI, 0 AVX2.
const Kernels& kernels(uint32_t kind);
uint32_t best_kernel();

// Distances of strings of bits: any multiple of four bytes.
struct BitKernels {
    // out[i] = bits that differ between the query and codes[i]; prefetches the codes ahead.
    void (*hammings)(const uint8_t* query, const uint8_t* const* codes, size_t count, size_t bytes, float* out);
    float (*hamming)(const uint8_t* a, const uint8_t* b, size_t bytes);
    // 1 − bits set in both ÷ bits set in either; 1 when none is set in both.
    void (*jaccards)(const uint8_t* query, const uint8_t* const* codes, size_t count, size_t bytes, float* out);
    float (*jaccard)(const uint8_t* a, const uint8_t* b, size_t bytes);
};

// 1 AVX-512 VPOPCNTDQ, 0 AVX2.
const BitKernels& bit_kernels(uint32_t kind);
uint32_t best_bit_kernel();

}  // namespace rektor
