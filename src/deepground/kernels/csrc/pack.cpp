#include "pack.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace deepground {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Values row by row into a panel, [k][32] or [k/2][32][2].
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
                for (int64_t k = run; k < end; ++k) target[(k / 2 * kPanel + row) * 2 + k % 2] = values[k];
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
#endif

bool holds_nan(const uint8_t* codes, int64_t count) {
    uint8_t found = 0;
    for (int64_t i = 0; i < count; ++i) found |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    return found != 0;
}

uint32_t nibble(const uint8_t* row, int64_t k) { return (row[k / 2] >> (k % 2 * 4)) & 15u; }

}  // namespace

Matrix matrix_over(uint8_t* memory, Format format, bool pairs, int64_t n, int64_t k) {
    Matrix w;
    w.format = format;
    w.pairs = pairs && (format == Format::bf16 || format == Format::fp8);
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
    for (int64_t panel = begin; panel < end; ++panel) pack_plain(w, source, stride, panel);
}

bool pack_fp8(const Matrix& w, const uint8_t* source, int64_t stride, const float* scales, int64_t scale_stride,
              int64_t block_n, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
#if defined(__SSE2__)
        if (!w.pairs && (panel + 1) * kPanel <= w.n) pack_full_panel(w, source, stride, panel);
        else pack_plain(w, source, stride, panel);
#else
        pack_plain(w, source, stride, panel);
#endif
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
            for (int64_t block = 0; block < w.blocks(); ++block)
                scales[block * kPanel + row] = exponents[(first + row) * exponent_stride + block];
        }
    }
}

}  // namespace deepground
