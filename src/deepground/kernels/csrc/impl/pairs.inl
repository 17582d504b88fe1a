// Linear maps over the pairs layout (matrix.h) with BF16 dot products, written once over `dot` and `round_pairs`.
//
// Activations are rounded to BF16. As in linear.inl every output is the sum over blocks of inputs (128, MXFP4: 32) of the
// block's scale times the block's products, each block summed in order from zero, whatever the number of rows.
//
// Legend: m rows of x, R rows of one inner loop.

namespace deepground {
namespace {

constexpr int64_t kPairs = 2 * kLanes;  // numbers of a vector of pairs
static_assert(kPanelVecs % kPairVecs == 0);

// The inputs at `from`, a vector of pairs, of which `left` exist; zeros for the others.
inline Pairs round_inputs(const float* from, int64_t left) {
    if (left >= kPairs) return round_pairs(load(from), load(from + kLanes));
    float part[kPairs] = {};
    for (int64_t j = 0; j < left; ++j) part[j] = from[j];
    return round_pairs(load(part), load(part + kLanes));
}

// Inputs first .. first + count (a multiple of 32) of rows, zeros behind k: [rows][ldo].
inline void round_rows(const float* x, int64_t ldx, int64_t rows, int64_t first, int64_t count, int64_t k, uint16_t* out,
                       int64_t ldo) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < count; i += kPairs)
            store_line(out + r * ldo + i, round_inputs(x + r * ldx + first + i, k - first - i));
}

constexpr int64_t kPairSpan = 256;                      // inputs whose unpacked weights stay in the first-level cache
constexpr int64_t kPairRows = 192, kPairInputs = 1536;  // whose rounded activations stay in the second-level cache
constexpr int64_t kPairStride = kPairInputs + 32;       // rows a power of two apart would fall into the same few places

template <int R, int V>
inline void dot_rows(const Pairs* weights, const uint16_t* x, int64_t ldx, Vec (*sums)[V]) {
    for (int r = 0; r < R; ++r) {
        const Pairs activations = broadcast_line(x + r * ldx);
        for (int i = 0; i < V; ++i) sums[r][i] = dot(sums[r][i], activations, weights[i]);
    }
}

template <int R, int V>
inline void clear_sums(Vec (*sums)[V]) {
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < V; ++i) sums[r][i] = zero();
}

template <int R, int V>
inline void add_block(const Vec (*sums)[V], const Vec* scale, Vec (*totals)[V]) {
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < V; ++i) totals[r][i] = fma(sums[r][i], scale[i], totals[r][i]);
}

// V vectors of pairs that follow each other, and one scale for all of them.
template <int V>
inline void load_lines(const uint16_t* p, Pairs* out) {
    for (int i = 0; i < V; ++i) out[i] = load_line(p + i * kPairs);
}
inline void set_scale(float value, Vec* scale) {
    for (int i = 0; i < kPanelVecs; ++i) scale[i] = set1(value);
}

// ---- few rows: weights are unpacked in registers ---------------------------------------------------------------

// P panels at a time, whose sums do not wait for each other: totals[p * R + r] is row r's of panel p.

template <int R, int P>
inline void direct_pairs_bf16(const Matrix& w, int64_t panel, const uint16_t* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const uint16_t* codes[P];
    for (int p = 0; p < P; ++p) codes[p] = reinterpret_cast<const uint16_t*>(w.panel_codes(panel + p));
    Vec one[kPanelVecs];
    set_scale(1.0f, one);
    for (int64_t first = 0; first < w.k_padded; first += kFp8Block) {
        const int64_t last = first + kFp8Block < w.k_padded ? first + kFp8Block : w.k_padded;
        Vec sums[P * R][kPanelVecs];
        clear<P * R>(sums);
        for (int64_t k = first; k < last; k += 2)
            for (int p = 0; p < P; ++p) {
                prefetch(codes[p] + k * kPanel + kPrefetchBytes / 2);
                prefetch(codes[p] + k * kPanel + kPrefetchBytes / 2 + kPanel);
                Pairs weights[kPanelVecs];
                load_lines<kPanelVecs>(codes[p] + k * kPanel, weights);
                dot_rows<R, kPanelVecs>(weights, x + k, ldx, sums + p * R);
            }
        add_block<P * R, kPanelVecs>(sums, one, totals);
    }
}

template <int R, int P>
inline void direct_pairs_fp8(const Matrix& w, int64_t panel, const uint16_t* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const uint8_t* codes[P];
    for (int p = 0; p < P; ++p) codes[p] = w.panel_codes(panel + p);
    const float* scales = w.scales + panel * w.blocks();
    const E4m3Tables tables = e4m3_tables();
    for (int64_t first = 0; first < w.k_padded; first += kFp8Block, ++scales) {
        const int64_t last = first + kFp8Block < w.k_padded ? first + kFp8Block : w.k_padded;
        Vec sums[P * R][kPanelVecs];
        clear<P * R>(sums);
        for (int64_t k = first; k < last; k += 2)
            for (int p = 0; p < P; ++p) {
                prefetch(codes[p] + k * kPanel + kPrefetchBytes);
                Pairs weights[kPanelVecs];
                e4m3_pairs(codes[p] + k * kPanel, tables, weights);
                dot_rows<R, kPanelVecs>(weights, x + k, ldx, sums + p * R);
            }
        for (int p = 0; p < P; ++p) {
            Vec scale[kPanelVecs];
            set_scale(scales[p * w.blocks()], scale);
            add_block<R, kPanelVecs>(sums + p * R, scale, totals + p * R);
        }
    }
}

template <int R, int P, int kPair>
inline void direct_pairs_fp4_step(const Fp4Line (*words)[kPanelVecs], Fp4Table table, const uint16_t* x, int64_t ldx,
                                  Vec (*sums)[kPanelVecs]) {
    for (int p = 0; p < P; ++p) {
        Pairs weights[kPanelVecs];
        for (int i = 0; i < kPanelVecs; ++i) weights[i] = fp4_pairs<kPair>(words[p][i], table);
        dot_rows<R, kPanelVecs>(weights, x + 2 * kPair, ldx, sums + p * R);
    }
}

template <int R, int P>
inline void direct_pairs_mxfp4(const Matrix& w, int64_t panel, const uint16_t* x, int64_t ldx, Vec (*totals)[kPanelVecs]) {
    const uint32_t* codes[P];
    for (int p = 0; p < P; ++p) codes[p] = reinterpret_cast<const uint32_t*>(w.panel_codes(panel + p));
    const uint8_t* exponents = w.exponents + panel * w.blocks() * kPanel;
    const Fp4Table table = fp4_table();
    for (int64_t first = 0; first < w.k_padded; first += kMxBlock, exponents += kPanel) {
        Vec sums[P * R][kPanelVecs];
        clear<P * R>(sums);
        for (int64_t k = first; k < first + kMxBlock; k += 8) {
            Fp4Line words[P][kPanelVecs];
            for (int p = 0; p < P; ++p) {
                const uint32_t* line = codes[p] + k / 8 * kPanel;
                prefetch(line + kPrefetchBytes / 4);
                prefetch(line + kPrefetchBytes / 4 + kPanel / 2);
                for (int i = 0; i < kPanelVecs; ++i) words[p][i] = load_fp4_line(line + i * kLanes);
            }
            direct_pairs_fp4_step<R, P, 0>(words, table, x + k, ldx, sums);
            direct_pairs_fp4_step<R, P, 1>(words, table, x + k, ldx, sums);
            direct_pairs_fp4_step<R, P, 2>(words, table, x + k, ldx, sums);
            direct_pairs_fp4_step<R, P, 3>(words, table, x + k, ldx, sums);
        }
        for (int p = 0; p < P; ++p) {
            Vec scale[kPanelVecs];
            for (int i = 0; i < kPanelVecs; ++i) scale[i] = load_e8m0(exponents + p * w.blocks() * kPanel + i * kLanes);
            add_block<R, kPanelVecs>(sums + p * R, scale, totals + p * R);
        }
    }
}

template <int R, int P>
inline void direct_panels(const Matrix& w, int64_t panel, const uint16_t* x, int64_t ldx, float* out, int64_t ldo) {
    Vec totals[P * R][kPanelVecs];
    clear<P * R>(totals);
    if (w.format == Format::bf16) direct_pairs_bf16<R, P>(w, panel, x, ldx, totals);
    else if (w.format == Format::fp8) direct_pairs_fp8<R, P>(w, panel, x, ldx, totals);
    else direct_pairs_mxfp4<R, P>(w, panel, x, ldx, totals);
    for (int p = 0; p < P; ++p) {
        const int64_t left = w.n - (panel + p) * kPanel;
        for (int r = 0; r < R; ++r)
            store_panel(totals[p * R + r], out + r * ldo + (panel + p) * kPanel, left < kPanel ? left : kPanel);
    }
}

template <int R>
inline void direct_pairs(const Matrix& w, const uint16_t* x, int64_t ldx, float* out, int64_t ldo, int64_t begin, int64_t end) {
    // The sums of one or two rows are so few that a product would wait for the one before it.
    constexpr int P = R <= kSidePanelRows ? 2 : 1;
    int64_t panel = begin;
    for (; panel + P <= end; panel += P) direct_panels<R, P>(w, panel, x, ldx, out, ldo);
    for (; panel < end; ++panel) direct_panels<R, 1>(w, panel, x, ldx, out, ldo);
}

template <int R>
inline void direct_pairs_rest(int64_t rows, const Matrix& w, const uint16_t* x, int64_t ldx, float* out, int64_t ldo,
                              int64_t begin, int64_t end) {
    if (rows == R) direct_pairs<R>(w, x, ldx, out, ldo, begin, end);
    else if constexpr (R > 1) direct_pairs_rest<R - 1>(rows, w, x, ldx, out, ldo, begin, end);
}

// Rows in groups of about equal height, one after the other for each panel, whose codes stay in the second-level cache:
// unpacking in registers hides behind the products of its own group, which storing unpacked weights does not.
inline void direct_groups(int64_t m, const Matrix& w, const uint16_t* x, int64_t ldx, float* out, int64_t ldo, int64_t begin,
                          int64_t end) {
    const int64_t groups = (m + kDirectRows - 1) / kDirectRows, height = (m + groups - 1) / groups;
    for (int64_t panel = begin; panel < end; ++panel)
        for (int64_t row = 0; row < m; row += height)
            direct_pairs_rest<kDirectRows>(m - row < height ? m - row : height, w, x + row * ldx, ldx, out + row * ldo, ldo,
                                           panel, panel + 1);
}

// ---- many rows: a span of weights is unpacked once into the first-level cache ------------------------------------

// Inputs of one panel as BF16 pairs, [count/2][32][2], without scales. count: a multiple of 32.
inline void unpack_pairs_fp8(const uint8_t* codes, int64_t count, const E4m3Tables& tables, uint16_t* out) {
    for (int64_t k = 0; k < count; k += 2) {
        Pairs pairs[kPanelVecs];
        e4m3_pairs(codes + k * kPanel, tables, pairs);
        for (int i = 0; i < kPanelVecs; ++i) store_line(out + k * kPanel + i * kPairs, pairs[i]);
    }
}

inline void unpack_pairs_fp4(const uint32_t* codes, int64_t count, uint16_t* out) {
    const Fp4Table table = fp4_table();
    for (int64_t k = 0; k < count; k += 8, codes += kPanel)
        for (int i = 0; i < kPanelVecs; ++i) {
            const Fp4Line words = load_fp4_line(codes + i * kLanes);
            uint16_t* line = out + k * kPanel + i * kPairs;
            store_line(line, fp4_pairs<0>(words, table));
            store_line(line + 2 * kPanel, fp4_pairs<1>(words, table));
            store_line(line + 4 * kPanel, fp4_pairs<2>(words, table));
            store_line(line + 6 * kPanel, fp4_pairs<3>(words, table));
        }
}

// Some inputs of one panel as the inner loops read them.
struct Span {
    const uint16_t* lines;     // [count/2][32][2]
    int64_t count;             // inputs, a multiple of 32
    const float* scales;       // FP8: of each block of 128 inputs
    const uint8_t* exponents;  // MXFP4: [blocks of 32 inputs][32]
};

// Of the kPairVecs vectors of a panel from `part` on.
template <Format kFormat>
inline void load_scale(const Span& span, int64_t block, int part, Vec* scale) {
    for (int i = 0; i < kPairVecs; ++i) {
        if constexpr (kFormat == Format::mxfp4) scale[i] = load_e8m0(span.exponents + block * kPanel + (part + i) * kLanes);
        else if constexpr (kFormat == Format::fp8) scale[i] = set1(span.scales[block]);
        else scale[i] = set1(1.0f);
    }
}

// Bytes of codes that one tile fetches for each input of its span, and the tiles that it takes to fetch all.
template <Format kFormat>
constexpr int64_t kFetchBytes = kFormat == Format::mxfp4 ? kPanel / 2 : kPanel;
template <Format kFormat>
constexpr int64_t kFetchTiles = kFormat == Format::bf16 ? 2 : 1;

// totals[r][part ..] += over the span's blocks, the block's scale times the sum of x[r] * weights, for R rows.
// With kFetch, codes from `ahead` on are fetched meanwhile, evenly: in one burst they would wait for each other.
template <Format kFormat, int R, bool kFetch>
inline void tile_pairs(const Span& span, int part, const uint16_t* x, float* totals, const uint8_t* ahead) {
    constexpr int64_t kBlock = kFormat == Format::mxfp4 ? kMxBlock : kFp8Block;
    Vec total[R][kPairVecs];
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kPairVecs; ++i) total[r][i] = load(totals + r * kPanel + (part + i) * kLanes);
    for (int64_t first = 0; first < span.count; first += kBlock) {
        const int64_t last = first + kBlock < span.count ? first + kBlock : span.count;
        Vec sums[R][kPairVecs], scale[kPairVecs];
        clear_sums<R, kPairVecs>(sums);
        for (int64_t k = first; k < last; k += 2) {
            if constexpr (kFetch) prefetch_far(ahead + k * kFetchBytes<kFormat>);
            Pairs line[kPairVecs];
            load_lines<kPairVecs>(span.lines + k * kPanel + part * kPairs, line);
            dot_rows<R, kPairVecs>(line, x + k, kPairStride, sums);
        }
        load_scale<kFormat>(span, first / kBlock, part, scale);
        add_block<R, kPairVecs>(sums, scale, total);
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < kPairVecs; ++i) store(totals + r * kPanel + (part + i) * kLanes, total[r][i]);
}

template <Format kFormat, int R>
inline void tile_pairs_rest(int64_t rows, const Span& span, const uint16_t* x, float* totals, const uint8_t* ahead) {
    if (rows == R) {
        if (ahead) tile_pairs<kFormat, R, true>(span, 0, x, totals, ahead);
        else tile_pairs<kFormat, R, false>(span, 0, x, totals, nullptr);
        for (int part = kPairVecs; part < kPanelVecs; part += kPairVecs)
            tile_pairs<kFormat, R, false>(span, part, x, totals, nullptr);
    } else if constexpr (R > 1) {
        tile_pairs_rest<kFormat, R - 1>(rows, span, x, totals, ahead);
    }
}

// All inputs of x that one panel has, [rows][kPairStride] from the input `outer` on, added to totals[rows][32].
template <Format kFormat>
inline void panel_pairs(const Matrix& w, int64_t panel, int64_t outer, int64_t inputs, const uint16_t* x, int64_t rows,
                        float* totals, const E4m3Tables& tables, uint16_t* weights) {
    constexpr int64_t kBlock = kFormat == Format::mxfp4 ? kMxBlock : kFp8Block;
    const uint8_t* codes = w.panel_codes(panel);
    // Tiles of even height: a last one of few rows would wait for its own sums.
    const int64_t tiles = (rows + kPairTile - 1) / kPairTile, height = (rows + tiles - 1) / tiles;
    for (int64_t first = 0; first < inputs; first += kPairSpan) {
        const int64_t count = inputs - first < kPairSpan ? inputs - first : kPairSpan;
        const int64_t block = panel * w.blocks() + (outer + first) / kBlock;
        Span span{weights, count, nullptr, nullptr};
        const uint8_t* from;
        int64_t bytes;  // of the span's codes
        if constexpr (kFormat == Format::mxfp4) {
            from = codes + (outer + first) * kPanel / 2, bytes = count * kPanel / 2;
            unpack_pairs_fp4(reinterpret_cast<const uint32_t*>(from), count, weights);
            span.exponents = w.exponents + block * kPanel;
        } else if constexpr (kFormat == Format::fp8) {
            from = codes + (outer + first) * kPanel, bytes = count * kPanel;
            unpack_pairs_fp8(from, count, tables, weights);
            span.scales = w.scales + block;
        } else {
            from = codes + (outer + first) * kPanel * 2, bytes = count * kPanel * 2;
            span.lines = reinterpret_cast<const uint16_t*>(from);
        }
        const uint8_t* ahead = from + bytes;
        for (int64_t r = 0; r < rows; r += height, ahead += count * kFetchBytes<kFormat>)
            tile_pairs_rest<kFormat, kPairTile>(rows - r < height ? rows - r : height, span, x + r * kPairStride + first,
                                                totals + r * kPanel, r < kFetchTiles<kFormat> * height ? ahead : nullptr);
    }
}

inline void copy_totals(const float* from, int64_t ldf, float* to, int64_t ldt, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        if (width == kPanel)
            for (int i = 0; i < kPanelVecs; ++i) store(to + r * ldt + i * kLanes, load(from + r * ldf + i * kLanes));
        else
            for (int64_t i = 0; i < width; ++i) to[r * ldt + i] = from[r * ldf + i];
    }
}

template <Format kFormat>
void pairs_blocked(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin, int64_t end,
                   void* scratch) {
    uint16_t* weights = static_cast<uint16_t*>(scratch);                         // [kPairSpan/2][32][2]
    float* totals = reinterpret_cast<float*>(weights + kPairSpan * kPanel);      // [kPairRows][32]
    uint16_t* rounded = reinterpret_cast<uint16_t*>(totals + kPairRows * kPanel);  // [kPairRows][kPairStride]
    const E4m3Tables tables = e4m3_tables();
    for (int64_t row = 0; row < m; row += kPairRows) {
        const int64_t rows = m - row < kPairRows ? m - row : kPairRows;
        for (int64_t outer = 0; outer < w.k_padded; outer += kPairInputs) {
            const int64_t inputs = w.k_padded - outer < kPairInputs ? w.k_padded - outer : kPairInputs;
            round_rows(x + row * ldx, ldx, rows, outer, inputs, w.k, rounded, kPairStride);
            for (int64_t panel = begin; panel < end; ++panel) {
                const int64_t width = w.n - panel * kPanel < kPanel ? w.n - panel * kPanel : kPanel;
                float* target = out + row * ldo + panel * kPanel;
                if (outer == 0)
                    for (int64_t i = 0; i < rows * kPanel; i += kLanes) store(totals + i, zero());
                else copy_totals(target, ldo, totals, kPanel, rows, width);
                panel_pairs<kFormat>(w, panel, outer, inputs, rounded, rows, totals, tables, weights);
                copy_totals(totals, kPanel, target, ldo, rows, width);
            }
        }
    }
}

// Rows up to which weights are unpacked in registers, for all of which the rounded inputs stay in the second-level cache.
// BF16 weights need no unpacking.
inline int64_t direct_pair_rows(const Matrix& w) {
    if (w.format == Format::bf16) return kDirectRows;
    const int64_t fitting = kPairRows * kPairInputs / w.k_padded;
    return fitting < kDirectRows ? kDirectRows : fitting < kGroupedRows ? fitting : kGroupedRows;
}

// Rows a power of two apart would fall into the same few places of the cache.
inline int64_t direct_pair_stride(const Matrix& w, int64_t m) { return m <= kDirectRows ? w.k_padded : w.k_padded + 32; }

[[maybe_unused]] void linear_pairs(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin, int64_t end,
                  void* scratch) {
    if (!w.pairs) {
        linear(w, x, ldx, m, out, ldo, begin, end, scratch);
    } else if (m <= direct_pair_rows(w)) {
        uint16_t* rounded = static_cast<uint16_t*>(scratch);
        const int64_t stride = direct_pair_stride(w, m);
        round_rows(x, ldx, m, 0, w.k_padded, w.k, rounded, stride);
        if (m <= kDirectRows) direct_pairs_rest<kDirectRows>(m, w, rounded, stride, out, ldo, begin, end);
        else direct_groups(m, w, rounded, stride, out, ldo, begin, end);
    } else if (w.format == Format::bf16) {
        pairs_blocked<Format::bf16>(w, x, ldx, m, out, ldo, begin, end, scratch);
    } else if (w.format == Format::fp8) {
        pairs_blocked<Format::fp8>(w, x, ldx, m, out, ldo, begin, end, scratch);
    } else {
        pairs_blocked<Format::mxfp4>(w, x, ldx, m, out, ldo, begin, end, scratch);
    }
}

[[maybe_unused]] int64_t linear_pairs_scratch_bytes(const Matrix& w, int64_t m) {
    if (!w.pairs) return linear_scratch_bytes(w, m);
    // Enough for fewer rows as well: experts share it.
    const int64_t few = m < direct_pair_rows(w) ? m : direct_pair_rows(w), direct = 2 * few * direct_pair_stride(w, few);
    const int64_t blocked = 2 * kPairSpan * kPanel + 4 * kPairRows * kPanel + 2 * kPairRows * kPairStride;
    return m > few && blocked > direct ? blocked : direct;
}

void unpack_pairs(const Matrix& w, int64_t panel, float* out) {
    if (!w.pairs) {
        unpack(w, panel, out);
        return;
    }
    const uint8_t* codes = w.panel_codes(panel);
    const E4m3Tables tables = e4m3_tables();
    uint16_t lines[kMxBlock * kPanel];
    for (int64_t first = 0; first < w.k_padded; first += kMxBlock) {
        const uint16_t* from = lines;
        Vec scale[kPanelVecs];
        set_scale(1.0f, scale);
        if (w.format == Format::bf16) {
            from = reinterpret_cast<const uint16_t*>(codes) + first * kPanel;
        } else if (w.format == Format::fp8) {
            unpack_pairs_fp8(codes + first * kPanel, kMxBlock, tables, lines);
            set_scale(w.scales[panel * w.blocks() + first / kFp8Block], scale);
        } else {
            unpack_pairs_fp4(reinterpret_cast<const uint32_t*>(codes) + first / 8 * kPanel, kMxBlock, lines);
            for (int i = 0; i < kPanelVecs; ++i)
                scale[i] = load_e8m0(w.exponents + (panel * w.blocks() + first / kMxBlock) * kPanel + i * kLanes);
        }
        for (int64_t k = 0; k < kMxBlock; k += 2)
            for (int i = 0; i < kPanelVecs; ++i) {
                const Pairs pairs = load_line(from + k * kPanel + i * kPairs);
                store(out + (first + k) * kPanel + i * kLanes, mul(first_floats(pairs), scale[i]));
                store(out + (first + k + 1) * kPanel + i * kLanes, mul(second_floats(pairs), scale[i]));
            }
    }
}

// What the matrix peak is measured with: two BF16 products and two additions in each lane of a dot product.
[[maybe_unused]] double peak_flops_pairs(int64_t rounds) {
    constexpr int kChains = 10;
    Vec sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = set1(static_cast<float>(i));
    const Pairs a = round_pairs(set1(0.5f), set1(0.5f)), b = round_pairs(set1(1e-3f), set1(1e-3f));
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kChains; ++i) sums[i] = dot(sums[i], a, b);
    Vec total = zero();
    for (int i = 0; i < kChains; ++i) total = add(total, sums[i]);
    volatile float kept = sum(total);
    (void)kept;
    return 4.0 * kLanes * kChains * static_cast<double>(rounds);
}

}  // namespace
}  // namespace deepground
