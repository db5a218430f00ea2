// Dot products and L1 distances of byte codes, and distances of bits, chosen once for the processor. No FAISS header here: kernels.cpp has functions compiled
// for newer processors, into which nothing shared with the rest of the program may be inlined.
#pragma once

#include "shim.h"

#include <cstddef>
#include <cstdint>

namespace rektor {

// Where the signs of a row begin, after four floats: scale, square, shift and factor.
constexpr size_t kSignsAt = 4 * sizeof(float);
// Most rows sifted at once.
constexpr size_t kSifted = 256;

// What rows must pass by their signs (signs.h): with S, the sum of the query's components whose bit is set,
// beyond = base + (square, shift or nothing) − weight × factor × (2S − total) must not be above 0, or its square not above
// of_factor × factor² − of_square × square.
struct Sieve {
    const float* const* scales;  // chunks of `beside` floats a row
    size_t beside;
    size_t signs_end;            // of their bytes that are used
    const uint8_t* const* codes; // chunks of stride bytes a row
    size_t stride;
    const int8_t* query;
    int32_t total;
    float weight;
    float base;
    uint32_t addend;  // 1 the square, 2 the shift, 0 none
    float of_factor;
    float of_square;
};

struct Kernels {
    // out[i] = Σ codes[i][j] × query[j] over stride bytes; prefetches the codes ahead.
    void (*dots)(const int8_t* query, const uint8_t* const* codes, size_t count, size_t stride, int32_t* out);
    // One of them.
    int32_t (*dot)(const int8_t* query, const uint8_t* code, size_t stride);
    // Of at most kSifted rows those that pass: their places among them, and their codes, which it prefetches; how many.
    size_t (*sift)(const Sieve& sieve, const uint32_t* rows, size_t count, size_t known, uint32_t* passed,
                   const uint8_t** codes);
    // The same of rows in order, of which `known`, at least count, are there: what is beside those ahead is fetched meanwhile.
    size_t (*sweep)(const Sieve& sieve, const uint32_t* rows, size_t count, size_t known, uint32_t* passed,
                    const uint8_t** codes);
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
