#include "pack.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace deepground {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Where a row's first value of a pair lies in a line of the pairs layout, in values; the second follows.
int64_t pair_place(int64_t row, size_t value_bytes) {
    return value_bytes == 1 ? row % 16 / 4 * 16 + row / 16 * 8 + row % 4 * 2 : row * 2;
}

// Values row by row into a panel, [k][32] or pairs.
template <typename Value>
void pack_plain(const Matrix& w, const Value* source, int64_t stride, int64_t panel) {
    Value* target = reinterpret_cast<Value*>(w.codes + panel * w.panel_bytes());
    const int64_t first = panel * kPanel, rows = std::min<int64_t>(kPanel, w.n - first);
    if (rows < kPanel || w.k_padded != w.k) std::memset(target, 0, static_cast<size_t>(w.panel_bytes()));
    constexpr int64_t kRun = 64;  // inputs of all rows that stay in the first-level cache
    for (int64_t run = 0; run < w.k; run += kRun) {
        const int64_t end = std::min(run + kRun, w.k);
        for (int64_t row = 0; row < rows; ++row) {
            const Value* values = source + (first + row) * stride;
            if (w.pairs)
                for (int64_t k = run; k < end; ++k) target[k / 2 * 2 * kPanel + pair_place(row, sizeof(Value)) + k % 2] = values[k];
            else
                for (int64_t k = run; k < end; ++k) target[k * kPanel + row] = values[k];
        }
    }
}

#if defined(__SSE2__)
// 16 rows of 16 bytes to 16 columns, in four rounds of interleaving.
void transpose_16x16(const uint8_t* source, int64_t stride, uint8_t* target, int64_t target_stride) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i * stride));
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i * target_stride), a[i]);
}

void pack_full_panel(const Matrix& w, const uint8_t* source, int64_t stride, int64_t panel) {
    uint8_t* target = w.codes + panel * w.panel_bytes();
    const uint8_t* rows = source + panel * kPanel * stride;
    const int64_t whole = w.k / 16 * 16;
    for (int64_t k = 0; k < whole; k += 16) {
        transpose_16x16(rows + k, stride, target + k * kPanel, kPanel);
        transpose_16x16(rows + 16 * stride + k, stride, target + k * kPanel + 16, kPanel);
    }
    for (int64_t k = whole; k < w.k; ++k)
        for (int64_t row = 0; row < kPanel; ++row) target[k * kPanel + row] = rows[row * stride + k];
}

__m128i load_16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
void store_16(void* p, __m128i a) { _mm_storeu_si128(static_cast<__m128i*>(p), a); }

// A full panel of the pairs layout whose k is a multiple of 32.
void pack_full_pairs(const Matrix& w, const uint8_t* source, int64_t stride, int64_t panel) {
    uint8_t* target = w.codes + panel * w.panel_bytes();
    const uint8_t* rows = source + panel * kPanel * stride;
    alignas(16) uint8_t turned[16][kPanel];
    for (int64_t k = 0; k < w.k; k += 16) {
        transpose_16x16(rows + k, stride, turned[0], kPanel);
        transpose_16x16(rows + 16 * stride + k, stride, turned[0] + 16, kPanel);
        for (int64_t i = 0; i < 16; i += 2) {
            uint8_t* line = target + (k + i) * kPanel;
            for (int half = 0; half < 2; ++half) {
                const auto pairs = [&](int first) {  // of eight rows
                    const __m128i a = load_16(turned[i] + first), b = load_16(turned[i + 1] + first);
                    return half ? _mm_unpackhi_epi8(a, b) : _mm_unpacklo_epi8(a, b);
                };
                const __m128i a = pairs(0), b = pairs(16);
                store_16(line + 32 * half, _mm_unpacklo_epi64(a, b));
                store_16(line + 32 * half + 16, _mm_unpackhi_epi64(a, b));
            }
        }
    }
}

void pack_full_pairs(const Matrix& w, const uint16_t* source, int64_t stride, int64_t panel) {
    uint16_t* target = reinterpret_cast<uint16_t*>(w.codes + panel * w.panel_bytes());
    const uint16_t* rows = source + panel * kPanel * stride;
    for (int64_t k = 0; k < w.k; k += 8)
        for (int64_t row = 0; row < kPanel; row += 4) {  // 4 rows of 4 pairs to 4 pairs of 4 rows
            const uint16_t* from = rows + row * stride + k;
            const __m128i a = load_16(from), b = load_16(from + stride), c = load_16(from + 2 * stride), d = load_16(from + 3 * stride);
            const __m128i ab0 = _mm_unpacklo_epi32(a, b), ab1 = _mm_unpackhi_epi32(a, b);
            const __m128i cd0 = _mm_unpacklo_epi32(c, d), cd1 = _mm_unpackhi_epi32(c, d);
            uint16_t* to = target + k * kPanel + row * 2;
            store_16(to, _mm_unpacklo_epi64(ab0, cd0));
            store_16(to + 2 * kPanel, _mm_unpackhi_epi64(ab0, cd0));
            store_16(to + 4 * kPanel, _mm_unpacklo_epi64(ab1, cd1));
            store_16(to + 6 * kPanel, _mm_unpackhi_epi64(ab1, cd1));
        }
}
#endif

template <typename Value>
void pack_panel(const Matrix& w, const Value* source, int64_t stride, int64_t panel) {
#if defined(__SSE2__)
    if constexpr (sizeof(Value) <= 2) {
        const bool full = (panel + 1) * kPanel <= w.n;
        if (full && w.pairs && w.k_padded == w.k) return pack_full_pairs(w, source, stride, panel);
        if constexpr (sizeof(Value) == 1)
            if (full && !w.pairs) return pack_full_panel(w, source, stride, panel);
    }
#endif
    pack_plain(w, source, stride, panel);
}

bool holds_nan(const uint8_t* codes, int64_t count) {
    uint8_t found = 0;
    for (int64_t i = 0; i < count; ++i) found |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    return found != 0;
}

// Eight codes in the order of the pairs layout: those of even inputs in the lower half, of odd ones in the upper.
uint32_t pair_word(uint32_t word) {
    const auto every_other = [](uint32_t nibbles) {
        nibbles &= 0x0f0f0f0fu;
        nibbles = (nibbles | nibbles >> 4) & 0x00ff00ffu;
        return (nibbles | nibbles >> 8) & 0xffffu;
    };
    return every_other(word) | every_other(word >> 4) << 16;
}

uint32_t nibble(const uint8_t* row, int64_t k) { return (row[k / 2] >> (k % 2 * 4)) & 15u; }

}  // namespace

Matrix matrix_over(uint8_t* memory, Format format, bool pairs, int64_t n, int64_t k) {
    Matrix w;
    w.format = format;
    w.pairs = pairs && format != Format::f32;
    w.n = n;
    w.k = k;
    w.k_padded = w.pairs || format == Format::mxfp4 ? round_up(k, 32) : k;
    w.codes = memory;
    uint8_t* behind = memory == nullptr ? nullptr : memory + round_up(w.panels() * w.panel_bytes(), 64);
    if (format == Format::fp8) w.scales = reinterpret_cast<float*>(behind);
    if (format == Format::mxfp4) w.exponents = behind;
    return w;
}

int64_t packed_bytes(Format format, bool pairs, int64_t n, int64_t k) {
    const Matrix w = matrix_over(nullptr, format, pairs, n, k);
    return round_up(w.panels() * w.panel_bytes(), 64) + round_up(w.panels() * w.panel_scale_bytes(), 64);
}

void pack_f32(const Matrix& w, const float* source, int64_t stride, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_plain(w, source, stride, panel);
}

void pack_bf16(const Matrix& w, const uint16_t* source, int64_t stride, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_panel(w, source, stride, panel);
}

bool pack_fp8(const Matrix& w, const uint8_t* source, int64_t stride, const float* scales, int64_t scale_stride,
              int64_t block_n, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
        pack_panel(w, source, stride, panel);
        if (holds_nan(w.panel_codes(panel), w.panel_bytes())) return false;
        const float* from = scales + panel * kPanel / block_n * scale_stride;
        std::copy(from, from + w.blocks(), w.scales + panel * w.blocks());
    }
    return true;
}

void pack_mxfp4(const Matrix& w, const uint8_t* source, int64_t stride, const uint8_t* exponents, int64_t exponent_stride,
                int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
        uint32_t* target = reinterpret_cast<uint32_t*>(w.codes + panel * w.panel_bytes());
        uint8_t* scales = w.exponents + panel * w.panel_scale_bytes();
        const int64_t first = panel * kPanel, rows = std::min<int64_t>(kPanel, w.n - first);
        if (rows < kPanel || w.k_padded != w.k) {
            std::memset(target, 0, static_cast<size_t>(w.panel_bytes()));
            std::memset(scales, 0, static_cast<size_t>(w.panel_scale_bytes()));
        }
        for (int64_t row = 0; row < rows; ++row) {
            const uint8_t* codes = source + (first + row) * stride;
            const int64_t whole = w.k / 8;
            for (int64_t word = 0; word < whole; ++word)  // both orders are little-endian: four bytes are the word
                std::memcpy(target + word * kPanel + row, codes + 4 * word, 4);
            if (whole * 8 < w.k) {
                uint32_t last = 0;
                for (int64_t k = whole * 8; k < w.k; ++k) last |= nibble(codes, k) << (k % 8 * 4);
                target[whole * kPanel + row] = last;
            }
            if (w.pairs)
                for (int64_t word = 0; word < (w.k + 7) / 8; ++word) target[word * kPanel + row] = pair_word(target[word * kPanel + row]);
            for (int64_t block = 0; block < w.blocks(); ++block)
                scales[block * kPanel + row] = exponents[(first + row) * exponent_stride + block];
        }
    }
}

}  // namespace deepground
