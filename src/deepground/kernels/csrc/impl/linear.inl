// Linear maps over packed matrices (matrix.h), written once over the vector type.
//
// Every output is the sum over blocks of inputs (128, MXFP4: 32) of the block's scale times the block's products, each
// block summed in order from zero. Both paths below do exactly that, so that an output does not depend on how
// many rows were computed with it.
//
// Legend: m rows of x, R rows of one inner loop, NV vectors that cover part of a panel.

namespace deepground {
namespace {

constexpr int kPanelVecs = kPanel / kLanes;
constexpr int kPrefetchBytes = 1024;  // how far ahead of the stream of weights

// ---- unpacking of one block of inputs of a panel to floats, [k][32], without the scale ------------------------

inline void unpack_f32(const float* codes, int64_t count, float* out) {
    for (int64_t i = 0; i < count * kPanel; i += kLanes) store(out + i, load(codes + i));
}

inline void unpack_bf16(const uint16_t* codes, int64_t count, float* out) {
    for (int64_t k = 0; k < count; ++k)
        for (int i = 0; i < kPanelVecs; ++i) store(out + k * kPanel + i * kLanes, load_bf16(codes + k * kPanel + i * kLanes));
}

inline void unpack_fp8(const uint8_t* codes, int64_t count, float* out) {
    Vec values[kPanelVecs];
    for (int64_t k = 0; k < count; ++k) {
        load_e4m3(codes + k * kPanel, values);
        for (int i = 0; i < kPanelVecs; ++i) store(out + k * kPanel + i * kLanes, values[i]);
    }
}

template <int kIndex>
inline void unpack_fp4_step(const Fp4Words* words, float* out) {
    for (int i = 0; i < kPanelVecs; ++i) store(out + kIndex * kPanel + i * kLanes, fp4_value<kIndex>(words[i]));
}

inline void unpack_fp4(const uint32_t* codes, int64_t count, float* out) {  // count: a multiple of 8
    for (int64_t k = 0; k < count; k += 8, codes += kPanel, out += 8 * kPanel) {
        Fp4Words words[kPanelVecs];
        for (int i = 0; i < kPanelVecs; ++i) words[i] = load_fp4(codes + i * kLanes);
        unpack_fp4_step<0>(words, out);
        unpack_fp4_step<1>(words, out);
        unpack_fp4_step<2>(words, out);
        unpack_fp4_step<3>(words, out);
        unpack_fp4_step<4>(words, out);
        unpack_fp4_step<5>(words, out);
        unpack_fp4_step<6>(words, out);
        unpack_fp4_step<7>(words, out);
    }
}

// ---- few rows: weights are unpacked in registers, each used at once for all rows ---------------------------------

template <int R>
inline void multiply_add(const Vec* weights, const float* x, int64_t ldx, Vec (*sums)[kPanelVecs]) {
    for (int r = 0; r < R; ++r) {
        const Vec activation = set1(x[r * ldx]);
        for (int i = 0; i < kPanelVecs; ++i) sums[r][i] = fma(activation, weights[i], sums[r][i]);
    }
}

template <int R>
inline void clear(Vec (*sums)[kPanelVecs]) {
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kPanelVecs; ++i) sums[r][i] = zero();
}

inline Vec load_weight(const float* p) { return load(p); }
inline Vec load_weight(const uint16_t* p) { return load_bf16(p); }

template <int R, typename Code>  // Code: float, or uint16_t for bf16
inline void direct_plain(const Matrix& w, int64_t panel, const float* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const Code* codes = reinterpret_cast<const Code*>(w.panel_codes(panel));
    for (int64_t first = 0; first < w.k; first += kFp8Block) {
        const int64_t last = first + kFp8Block < w.k ? first + kFp8Block : w.k;
        Vec sums[R][kPanelVecs];
        clear<R>(sums);
        for (int64_t k = first; k < last; ++k) {
            prefetch(codes + k * kPanel + kPrefetchBytes / sizeof(Code));
            Vec weights[kPanelVecs];
            for (int i = 0; i < kPanelVecs; ++i) weights[i] = load_weight(codes + k * kPanel + i * kLanes);
            multiply_add<R>(weights, x + k, ldx, sums);
        }
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < kPanelVecs; ++i) totals[r][i] = add(totals[r][i], sums[r][i]);
    }
}

template <int R>
inline void direct_fp8(const Matrix& w, int64_t panel, const float* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const uint8_t* codes = w.panel_codes(panel);
    const float* scales = w.scales + panel * w.blocks();
    for (int64_t first = 0; first < w.k; first += kFp8Block) {
        const int64_t last = first + kFp8Block < w.k ? first + kFp8Block : w.k;
        Vec sums[R][kPanelVecs];
        clear<R>(sums);
        for (int64_t k = first; k < last; ++k) {
            prefetch(codes + k * kPanel + kPrefetchBytes);
            Vec weights[kPanelVecs];
            load_e4m3(codes + k * kPanel, weights);
            multiply_add<R>(weights, x + k, ldx, sums);
        }
        const Vec scale = set1(*scales++ * kE4m3Factor);
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < kPanelVecs; ++i) totals[r][i] = fma(sums[r][i], scale, totals[r][i]);
    }
}

template <int R, int kIndex>
inline void direct_fp4_step(const Fp4Words* words, const float* x, int64_t ldx, Vec (*sums)[kPanelVecs]) {
    Vec weights[kPanelVecs];
    for (int i = 0; i < kPanelVecs; ++i) weights[i] = fp4_value<kIndex>(words[i]);
    multiply_add<R>(weights, x + kIndex, ldx, sums);
}

template <int R>
inline void direct_mxfp4(const Matrix& w, int64_t panel, const float* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(w.panel_codes(panel));
    const uint8_t* exponents = w.exponents + panel * w.blocks() * kPanel;
    for (int64_t first = 0; first < w.k_padded; first += kMxBlock, exponents += kPanel) {
        Vec sums[R][kPanelVecs];
        clear<R>(sums);
        for (int64_t k = first; k < first + kMxBlock; k += 8, codes += kPanel) {
            prefetch(codes + kPrefetchBytes / 4);
            prefetch(codes + kPrefetchBytes / 4 + 16);
            Fp4Words words[kPanelVecs];
            for (int i = 0; i < kPanelVecs; ++i) words[i] = load_fp4(codes + i * kLanes);
            direct_fp4_step<R, 0>(words, x + k, ldx, sums);
            direct_fp4_step<R, 1>(words, x + k, ldx, sums);
            direct_fp4_step<R, 2>(words, x + k, ldx, sums);
            direct_fp4_step<R, 3>(words, x + k, ldx, sums);
            direct_fp4_step<R, 4>(words, x + k, ldx, sums);
            direct_fp4_step<R, 5>(words, x + k, ldx, sums);
            direct_fp4_step<R, 6>(words, x + k, ldx, sums);
            direct_fp4_step<R, 7>(words, x + k, ldx, sums);
        }
        for (int i = 0; i < kPanelVecs; ++i) {
            const Vec scale = load_e8m0(exponents + i * kLanes);
            for (int r = 0; r < R; ++r) totals[r][i] = fma(sums[r][i], scale, totals[r][i]);
        }
    }
}

inline void store_panel(const Vec* totals, float* out, int64_t count) {
    if (count == kPanel) {
        for (int i = 0; i < kPanelVecs; ++i) store(out + i * kLanes, totals[i]);
        return;
    }
    float tile[kPanel];
    for (int i = 0; i < kPanelVecs; ++i) store(tile + i * kLanes, totals[i]);
    for (int64_t i = 0; i < count; ++i) out[i] = tile[i];
}

template <int R>
void direct(const Matrix& w, const float* x, int64_t ldx, float* out, int64_t ldo, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
        Vec totals[R][kPanelVecs];
        clear<R>(totals);
        switch (w.format) {
            case Format::f32: direct_plain<R, float>(w, panel, x, ldx, totals); break;
            case Format::bf16: direct_plain<R, uint16_t>(w, panel, x, ldx, totals); break;
            case Format::fp8: direct_fp8<R>(w, panel, x, ldx, totals); break;
            case Format::mxfp4: direct_mxfp4<R>(w, panel, x, ldx, totals); break;
        }
        const int64_t left = w.n - panel * kPanel;
        for (int r = 0; r < R; ++r) store_panel(totals[r], out + r * ldo + panel * kPanel, left < kPanel ? left : kPanel);
    }
}

// ---- many rows: a block of weights is unpacked once into the first-level cache, then used for all rows ----------

// Rows of activations, as the inner loops read them. Groups of `height` rows interleaved, [k][kTileRows], a group `stride` floats long: one stream of activations, too, as
// rows that lie a power of two apart would fall into the same few places of the cache.
struct RowGroups {
    const float* x;
    int64_t stride;
    int64_t height;  // at most kTileRows
    DG_INLINE RowGroups rows(int64_t row) const { return {x + row / height * stride, stride, height}; }
    DG_INLINE float at(int64_t r, int64_t k) const { return x[k * kTileRows + r]; }
};

// totals[r][32] += scale * sum over k of x[r][k] * weights[k][32], for R rows and kTileVecs vectors of the panel.
template <int R>
inline void tile(const float* weights, int64_t count, RowGroups x, const Vec* scale, float* totals, int64_t ldt) {
    Vec sums[R][kTileVecs];
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kTileVecs; ++i) sums[r][i] = zero();
    for (int64_t k = 0; k < count; ++k) {
        Vec row[kTileVecs];
        for (int i = 0; i < kTileVecs; ++i) row[i] = load(weights + k * kPanel + i * kLanes);
        for (int r = 0; r < R; ++r) {
            const Vec activation = set1(x.at(r, k));
            for (int i = 0; i < kTileVecs; ++i) sums[r][i] = fma(activation, row[i], sums[r][i]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kTileVecs; ++i) {
            float* total = totals + r * ldt + i * kLanes;
            store(total, fma(sums[r][i], scale[i], load(total)));
        }
}

template <int R>
inline void tile_rest(int64_t rows, const float* weights, int64_t count, RowGroups x, const Vec* scale, float* totals, int64_t ldt) {
    if (rows == R) tile<R>(weights, count, x, scale, totals, ldt);
    else if constexpr (R > 1) tile_rest<R - 1>(rows, weights, count, x, scale, totals, ldt);
}

// One block of inputs (those that share a scale) of a panel, all m rows.
inline void tile_block(const float* weights, int64_t count, RowGroups x, int64_t m, const Vec* scale, float* totals, int64_t ldt) {
    for (int part = 0; part < kPanelVecs; part += kTileVecs) {
        const int offset = part * kLanes;
        for (int64_t r = 0; r < m; r += x.height) {
            const int64_t rows = m - r < x.height ? m - r : x.height;
            tile_rest<kTileRows>(rows, weights + offset, count, x.rows(r), scale + part, totals + r * ldt + offset, ldt);
        }
    }
}

// Inputs first .. first + count (count <= 128) of one panel, all m rows; x starts at input `first`.
inline void tile_span(const Matrix& w, int64_t panel, int64_t first, int64_t count, RowGroups x, int64_t m, float* totals,
                      int64_t ldt, float* weights) {
    Vec scale[kPanelVecs];
    const uint8_t* codes = w.panel_codes(panel);
    switch (w.format) {
        case Format::f32:
        case Format::bf16:
            if (w.format == Format::f32) unpack_f32(reinterpret_cast<const float*>(codes) + first * kPanel, count, weights);
            else unpack_bf16(reinterpret_cast<const uint16_t*>(codes) + first * kPanel, count, weights);
            for (int i = 0; i < kPanelVecs; ++i) scale[i] = set1(1.0f);
            tile_block(weights, count, x, m, scale, totals, ldt);
            break;
        case Format::fp8:
            unpack_fp8(codes + first * kPanel, count, weights);
            for (int i = 0; i < kPanelVecs; ++i)
                scale[i] = set1(w.scales[panel * w.blocks() + first / kFp8Block] * kE4m3Factor);
            tile_block(weights, count, x, m, scale, totals, ldt);
            break;
        case Format::mxfp4:
            unpack_fp4(reinterpret_cast<const uint32_t*>(codes) + first / 8 * kPanel, count, weights);
            for (int64_t k = 0; k < count; k += kMxBlock) {
                const uint8_t* exponents = w.exponents + (panel * w.blocks() + (first + k) / kMxBlock) * kPanel;
                for (int i = 0; i < kPanelVecs; ++i) scale[i] = load_e8m0(exponents + i * kLanes);
                tile_block(weights + k * kPanel, kMxBlock, RowGroups{x.x + k * kTileRows, x.stride, x.height}, m, scale, totals, ldt);
            }
            break;
    }
}

constexpr int64_t kRowGroups = 192 / kTileRows;                            // of one round
constexpr int64_t kRowBlock = kRowGroups * kTileRows, kInputBlock = 768;  // their floats stay in the second-level cache

inline void interleave(const float* x, int64_t ldx, int64_t rows, int64_t height, int64_t count, float* out) {
    for (int64_t group = 0; group < rows; group += height, out += kInputBlock * kTileRows) {
        const int64_t end = rows - group < height ? rows - group : height;
        for (int64_t r = 0; r < end; ++r)
            for (int64_t k = 0; k < count; ++k) out[k * kTileRows + r] = x[(group + r) * ldx + k];
    }
}

void linear_blocked(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin,
                    int64_t end, float* scratch) {
    float* weights = scratch;                    // [128][32]
    float* edge = weights + kFp8Block * kPanel;  // [kRowBlock][32], of a panel that is not full
    float* groups = edge + kRowBlock * kPanel;   // [kRowGroups][kInputBlock][kTileRows]
    const int64_t inputs = w.format == Format::mxfp4 ? w.k_padded : w.k;
    for (int64_t row = 0; row < m; row += kRowBlock) {
        const int64_t rows = m - row < kRowBlock ? m - row : kRowBlock;
        // Groups of even height: a last one of few rows would wait for its own sums.
        const int64_t groups_of_rows = (rows + kTileRows - 1) / kTileRows, height = (rows + groups_of_rows - 1) / groups_of_rows;
        for (int64_t outer = 0; outer < inputs; outer += kInputBlock) {
            const int64_t outer_end = outer + kInputBlock < inputs ? outer + kInputBlock : inputs;
            interleave(x + row * ldx + outer, ldx, rows, height, outer_end - outer, groups);
            for (int64_t panel = begin; panel < end; ++panel) {
                const int64_t width = w.n - panel * kPanel < kPanel ? w.n - panel * kPanel : kPanel;
                float* target = out + row * ldo + panel * kPanel;
                float* totals = width == kPanel ? target : edge;
                const int64_t ldt = width == kPanel ? ldo : kPanel;
                for (int64_t r = 0; r < rows; ++r) {
                    float* total = totals + r * ldt;
                    if (outer == 0) {
                        for (int i = 0; i < kPanelVecs; ++i) store(total + i * kLanes, zero());
                    } else if (width != kPanel) {
                        for (int64_t i = 0; i < width; ++i) total[i] = target[r * ldo + i];
                    }
                }
                for (int64_t first = outer; first < outer_end; first += kFp8Block) {
                    const int64_t count = outer_end - first < kFp8Block ? outer_end - first : kFp8Block;
                    const RowGroups block = {groups + (first - outer) * kTileRows, kInputBlock * kTileRows, height};
                    tile_span(w, panel, first, count, block, rows, totals, ldt, weights);
                }
                if (width != kPanel)
                    for (int64_t r = 0; r < rows; ++r)
                        for (int64_t i = 0; i < width; ++i) target[r * ldo + i] = totals[r * ldt + i];
            }
        }
    }
}

template <int R>
inline void direct_rest(int64_t rows, const Matrix& w, const float* x, int64_t ldx, float* out, int64_t ldo, int64_t begin,
                        int64_t end) {
    if (rows == R) direct<R>(w, x, ldx, out, ldo, begin, end);
    else if constexpr (R > 1) direct_rest<R - 1>(rows, w, x, ldx, out, ldo, begin, end);
}

void linear(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin, int64_t end,
            void* scratch) {
    if (m <= kDirectRows) direct_rest<kDirectRows>(m, w, x, ldx, out, ldo, begin, end);
    else linear_blocked(w, x, ldx, m, out, ldo, begin, end, static_cast<float*>(scratch));
}

int64_t linear_scratch_bytes(const Matrix&, int64_t m) {
    if (m <= kDirectRows) return 0;
    const int64_t groups = m < kRowBlock ? (m + kTileRows - 1) / kTileRows : kRowGroups;
    return static_cast<int64_t>(sizeof(float)) * (kPanel * (kFp8Block + kRowBlock) + groups * kInputBlock * kTileRows);
}

void unpack(const Matrix& w, int64_t panel, float* out) {
    const uint8_t* codes = w.panel_codes(panel);
    if (w.format == Format::f32) {
        unpack_f32(reinterpret_cast<const float*>(codes), w.k_padded, out);
    } else if (w.format == Format::bf16) {
        unpack_bf16(reinterpret_cast<const uint16_t*>(codes), w.k_padded, out);
    } else if (w.format == Format::fp8) {
        unpack_fp8(codes, w.k_padded, out);
        for (int64_t k = 0; k < w.k; ++k)
            for (int n = 0; n < kPanel; ++n) out[k * kPanel + n] *= w.scales[panel * w.blocks() + k / kFp8Block] * kE4m3Factor;
    } else {
        unpack_fp4(reinterpret_cast<const uint32_t*>(codes), w.k_padded, out);
        for (int64_t k = 0; k < w.k_padded; ++k)
            for (int i = 0; i < kPanelVecs; ++i) {
                float* value = out + k * kPanel + i * kLanes;
                store(value, mul(load(value), load_e8m0(w.exponents + (panel * w.blocks() + k / kMxBlock) * kPanel + i * kLanes)));
            }
    }
}

}  // namespace
}  // namespace deepground
