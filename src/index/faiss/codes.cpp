// Vectors → 8-bit codes with a scale and a norm per row, and queries → signed bytes.
#include "codes.h"

#include <immintrin.h>

#include <algorithm>

namespace rektor {
namespace {

// Sum of squares in double: components up to 1e38 must not overflow.
double squared_norm(const float* x, size_t dim) {
    __m256d lanes = _mm256_setzero_pd();
    size_t j = 0;
    for (; j + 4 <= dim; j += 4) {
        const __m256d values = _mm256_cvtps_pd(_mm_loadu_ps(x + j));
        lanes = _mm256_fmadd_pd(values, values, lanes);
    }
    double sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    for (; j < dim; j++) {
        sum += static_cast<double>(x[j]) * x[j];
    }
    return sum;
}

// What a vector is multiplied with before it is centred.
float unit(const RektorCodes& codes, const float* x) {
    if (codes.metric != kCosine) {
        return 1;
    }
    const double norm = std::sqrt(squared_norm(x, codes.dim));
    return norm > 0 ? static_cast<float>(1 / norm) : 0;
}

// Nearest whole number in −127 … 127, plus 128; also for what overflowed.
inline int round_code(float value) {
    value = value > -127.0f ? value : -127.0f;
    value = value < 127.0f ? value : 127.0f;
    return static_cast<int>(value + 128.5f);
}

float sum(__m256 lanes) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

}  // namespace

// By hand, here and below: the compiler may not reorder what is done to floats.
Rounded round_all(const float* x, size_t stride, std::vector<int8_t>& bytes) {
    __m256 most = _mm256_setzero_ps();
    for (size_t j = 0; j < stride; j += 8) {
        const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x + j));
        most = _mm256_max_ps(size, most);  // not what is not a number
    }
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, most);
    const float largest = *std::max_element(lanes, lanes + 8);
    const float inverse = largest > 0 ? 127 / largest : 0;
    bytes.resize(stride);
    int32_t total = 0;
    for (size_t j = 0; j < stride; j++) {
        const int code = round_code(x[j] * inverse) - 128;
        bytes[j] = static_cast<int8_t>(code);
        total += code;
    }
    return {total, largest / 127};
}

Query code_query(const RektorCodes& codes, const float* query, Coded& coded) {
    if (of_bits(codes.metric)) {
        return {reinterpret_cast<const int8_t*>(query), 0, 0, 0, 0, nullptr};
    }
    std::vector<float>& centred = coded.values;
    centred.assign(codes.stride, 0);
    // q·x = q·mean + q·(x − mean): for inner product the query stays where it is.
    const bool inner = codes.metric == kInnerProduct;
    const float factor = unit(codes, query);
    for (size_t j = 0; j < codes.dim; j++) {
        centred[j] = query[j] * factor - (inner ? 0.0f : codes.mean[j]);
    }
    if (codes.metric == kL1) {
        return {nullptr, 0, 0, 0, 0, centred.data()};
    }
    const Rounded rounded = round_all(centred.data(), codes.stride, coded.bytes);
    const float scale = rounded.step;
    __m256 squares = _mm256_setzero_ps();  // of the query
    __m256 decodeds = squares;             // of the query as its code has it, and of what that lacks
    for (size_t j = 0; j < codes.stride; j += 8) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(coded.bytes.data() + j));
        const __m256 value = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
        const __m256 whole = _mm256_loadu_ps(centred.data() + j);
        const __m256 rest = _mm256_sub_ps(whole, value);
        squares = _mm256_fmadd_ps(whole, whole, squares);
        decodeds = _mm256_fmadd_ps(value, value, _mm256_fmadd_ps(rest, rest, decodeds));
    }
    const float square = sum(squares);
    const float decoded = sum(decodeds);
    float shift = 0;
    for (size_t j = 0; inner && j < codes.dim; j++) {
        shift += centred[j] * codes.mean[j];
    }
    Query coded_query{coded.bytes.data(), 128 * rounded.total, inner ? scale : 2 * scale, 0, inner ? 0u : 1u, nullptr, scale, square};
    // |x − q|² = |x|² − 2x·q + |q|². What the query's rounding r takes from x·q is r·q + r·(x − q): where x is near, little
    // besides r·q is lost, which is known; where x is farther from q than from the mean, r·x is less.
    coded_query.offsets[0] = inner ? -shift : decoded;
    coded_query.offsets[1] = inner ? -shift : square;
    return coded_query;
}

Query row_query(const RektorCodes& codes, uint32_t place, Measure measure, Coded& coded) {
    const uint8_t* code = code_of(codes, place);
    if (of_bits(codes.metric)) {
        return {reinterpret_cast<const int8_t*>(code), 0, 0, 0, 0, nullptr};
    }
    const float* scale = scales_of(codes, place);
    if (codes.metric == kL1) {
        coded.values.resize(codes.stride);
        float* values = coded.values.data();
        for (size_t j = 0; j < codes.stride; j++) {
            values[j] = scale[0] * static_cast<float>(code[j] - 128);
        }
        return {nullptr, 0, 0, 0, 0, values, scale[0]};
    }
    coded.bytes.resize(codes.stride);
    int8_t* bytes = coded.bytes.data();
    const int32_t sum = kernels(best_kernel()).to_signed(code, bytes, codes.stride);
    if (measure == Measure::kDot) {
        // −x·y = −(x − m)·(y − m) − m·x − m·y + m·m, of which scale[2] holds m·m/2 − m·x.
        return {bytes, 128 * sum, scale[0], scale[2], 2, nullptr, scale[0], scale[1]};
    }
    return {bytes, 128 * sum, 2 * scale[0], scale[1], 1, nullptr, scale[0], scale[1]};
}

}  // namespace rektor

using namespace rektor;

extern "C" void rektor_encode(const RektorCodes* codes, const float* x, uint8_t* code, float* scale) {
    const float factor = unit(*codes, x);
    const size_t dim = codes->dim;
    float most = 0;
    double shift = 0;
    for (size_t j = 0; j < dim; j++) {
        const float value = x[j] * factor - codes->mean[j];
        const float size = std::fabs(value);
        most = size > most ? size : most;
        shift += codes->mean[j] * (0.5 * codes->mean[j] - x[j]);
    }
    const float inverse = most > 0 ? 127 / most : 0;
    scale[0] = most / 127;
    // The squared norm, less 2 × code · rounding: with it the code's own rounding takes little from the distance to near
    // points, as it would from |x|².
    double norm = 0;
    for (size_t j = 0; j < dim; j++) {
        const float value = x[j] * factor - codes->mean[j];
        const int rounded = round_code(value * inverse);
        code[j] = static_cast<uint8_t>(rounded);
        const double decoded = static_cast<double>(scale[0]) * (rounded - 128);
        const double rest = value - decoded;
        norm += decoded * decoded + rest * rest;
    }
    std::fill(code + dim, code + codes->stride, uint8_t{128});
    scale[1] = static_cast<float>(norm);
    scale[2] = static_cast<float>(shift);
    scale[3] = 0;
}

extern "C" uint32_t rektor_best_kernel() {
    return best_kernel();
}

extern "C" int32_t rektor_dot(uint32_t kernel, const uint8_t* code, const int8_t* query, size_t stride) {
    return kernels(kernel).dot(query, code, stride);
}

extern "C" float rektor_manhattan(uint32_t kernel, const uint8_t* code, const float* query, float scale,
                                  size_t stride) {
    return kernels(kernel).manhattan(query, code, scale, stride);
}
