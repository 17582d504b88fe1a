// Linear maps over the pairs layout (matrix.h) with AMX tiles, written once over `Tiles`.
//
// A tile of rows holds 16 rows of 32 inputs, a tile of columns 32 inputs of 16 outputs, a tile of sums 16 rows of 16
// outputs. BF16 weights are tiles of columns as they lie in memory; the others are unpacked, with their scales, into
// the first-level cache. Scales are powers of two and so exact in BF16's exponent; a panel with other scales, or with
// some that leave BF16's range, sums each block apart and scales the sums.
//
// Every output is the sum over its inputs in order, 32 by 32, whatever the number of rows: a single row takes the same
// way through the tiles as a thousand.
//
// Legend: m rows of x, T tiles of rows.

namespace deepground {
namespace {

// Where a panel's outputs are summed: in place, or in `edge` ([][32]) where whole rows would not fit in the output.
struct Totals {
    float* rows;
    int64_t stride;

    Totals(float* out, int64_t ldo, int64_t count, int64_t width, bool in_place, float* edge, bool fresh)
        : rows(in_place ? out : edge), stride(in_place ? ldo : kPanel), out_(out), ldo_(ldo), count_(count), width_(width) {
        for (int64_t r = 0; r < count; ++r) {
            if (fresh)
                for (int i = 0; i < kPanelVecs; ++i) store(rows + r * stride + i * kLanes, zero());
            else if (!in_place)
                for (int64_t i = 0; i < width; ++i) rows[r * stride + i] = out[r * ldo + i];
        }
    }
    // Puts the sums where they belong.
    void finish() const {
        if (rows == out_) return;
        for (int64_t r = 0; r < count_; ++r)
            for (int64_t i = 0; i < width_; ++i) out_[r * ldo_ + i] = rows[r * stride + i];
    }

  private:
    float* out_;
    int64_t ldo_, count_, width_;
};

constexpr int64_t kTile = 16;                       // rows of a tile
constexpr int64_t kTileInputs = 32;                 // BF16 inputs of a tile
constexpr int64_t kTileWords = kTile * kTileInputs;
// Rows and inputs whose tiles stay in the second-level cache, and inputs of a panel that stay in the first.
constexpr int64_t kTiledRows = 384, kTiledInputs = 1536, kUnpackedInputs = 512;
constexpr int64_t kFewRows = 2 * kTile;

enum { kSums00, kSums01, kSums10, kSums11, kRows0, kRows1, kColumns0, kColumns1 };

// Two tiles of rows against two of columns; `second` counts the rows of the second tile of rows, 0 for none.
inline TileShapes tile_shapes(int64_t first, int64_t second) {
    TileShapes shapes;
    const auto set = [&](int tile, int64_t rows) {
        shapes.rows[tile] = static_cast<uint8_t>(rows);
        shapes.row_bytes[tile] = rows == 0 ? 0 : 64;
    };
    set(kSums00, first), set(kSums01, first), set(kRows0, first);
    set(kSums10, second), set(kSums11, second), set(kRows1, second);
    set(kColumns0, kTile), set(kColumns1, kTile);
    return shapes;
}

// Inputs first .. first + count of `rows` rows as tiles, [count/32][T][16][32]. Rows of the last tile that do not
// exist are zeros.
inline void round_tiles(const float* x, int64_t ldx, int64_t rows, int64_t first, int64_t count, int64_t k, uint16_t* out) {
    const int64_t padded = (rows + kTile - 1) / kTile * kTile;
    for (int64_t r = 0; r < padded; ++r)
        for (int64_t i = 0; i < count; i += kTileInputs) {
            const int64_t left = r < rows ? k - first - i : 0;
            const float* from = left > 0 ? x + r * ldx + first + i : x;
            store_line(out + (i / kTileInputs * padded + r) * kTileInputs, round_inputs(from, left));
        }
}

// sums[rows][32] += rows x columns over `steps` times 32 inputs. columns: [step][16][32][2]; row_step: words from one
// step's tiles of rows to the next's.
template <bool kTwo, bool kAhead>
inline void multiply_tiles(Tiles& tiles, const uint16_t* rows, int64_t row_step, const uint16_t* columns, int64_t steps,
                           float* sums, int64_t lds) {
    constexpr int64_t kRowBytes = 64, kLineBytes = 128;
    const int64_t sum_bytes = lds * 4;
    tiles.template load<kSums00>(sums, sum_bytes);
    tiles.template load<kSums01>(sums + kTile, sum_bytes);
    if constexpr (kTwo) {
        tiles.template load<kSums10>(sums + kTile * lds, sum_bytes);
        tiles.template load<kSums11>(sums + kTile * lds + kTile, sum_bytes);
    }
    for (int64_t step = 0; step < steps; ++step, rows += row_step, columns += kTileInputs * kPanel) {
        if constexpr (kAhead)
            for (int line = 0; line < 2 * kTile; ++line) prefetch(columns + kTileInputs * kPanel + line * 32);
        tiles.template load<kRows0>(rows, kRowBytes);
        tiles.template load<kColumns0>(columns, kLineBytes);
        tiles.template dot<kSums00, kRows0, kColumns0>();
        tiles.template load<kColumns1>(columns + kPanel, kLineBytes);
        tiles.template dot<kSums01, kRows0, kColumns1>();
        if constexpr (kTwo) {
            tiles.template load<kRows1>(rows + kTileWords, kRowBytes);
            tiles.template dot<kSums10, kRows1, kColumns0>();
            tiles.template dot<kSums11, kRows1, kColumns1>();
        }
    }
    tiles.template store<kSums00>(sums, sum_bytes);
    tiles.template store<kSums01>(sums + kTile, sum_bytes);
    if constexpr (kTwo) {
        tiles.template store<kSums10>(sums + kTile * lds, sum_bytes);
        tiles.template store<kSums11>(sums + kTile * lds + kTile, sum_bytes);
    }
}

// Whether all scales of a panel can be put into the exponents of BF16 weights.
inline bool scales_fold(const Matrix& w, int64_t panel) {
    const int64_t blocks = w.blocks();
    if (w.format == Format::fp8) {
        for (int64_t block = 0; block < blocks; ++block) {
            uint32_t bits;
            __builtin_memcpy(&bits, w.scales + panel * blocks + block, sizeof bits);
            const int exponent = static_cast<int>(bits >> 23) - 127;  // a negative scale is out of range
            if ((bits & 0x7fffff) != 0 || exponent < kE4m3MinExponent || exponent > kE4m3MaxExponent) return false;
        }
    } else if (w.format == Format::mxfp4) {
        const int64_t outputs = w.n - panel * kPanel < kPanel ? w.n - panel * kPanel : kPanel;
        for (int64_t block = 0; block < blocks; ++block)
            for (int64_t i = 0; i < outputs; ++i) {
                const int exponent = w.exponents[(panel * blocks + block) * kPanel + i];
                if (exponent < kE2m1MinExponent || exponent > kE2m1MaxExponent) return false;
            }
    }
    return true;
}

// Codes of inputs first .. first + count of a panel as tiles of columns, times their scales where `folded`.
inline void unpack_columns_fp8(const Matrix& w, int64_t panel, int64_t first, int64_t count, bool folded, uint16_t* out) {
    const uint8_t* codes = w.panel_codes(panel);
    for (int64_t k = first; k < first + count; k += kFp8Block) {
        uint32_t bits;
        __builtin_memcpy(&bits, w.scales + panel * w.blocks() + k / kFp8Block, sizeof bits);
        const E4m3Tables tables = e4m3_tables(folded ? static_cast<int>(bits >> 23) - 127 : 0);
        const int64_t last = first + count - k < kFp8Block ? first + count : k + kFp8Block;
        for (int64_t line = k; line < last; line += 2) {
            prefetch(codes + line * kPanel + kPrefetchBytes);
            Pairs pairs[kPanelVecs];
            e4m3_pairs(codes + line * kPanel, tables, pairs);
            store_line(out + (line - first) * kPanel, pairs[0]);
            store_line(out + (line - first + 1) * kPanel, pairs[1]);
        }
    }
}

template <int kPair>
inline void unpack_columns_fp4_step(__m512i words, __m512i table, __m512i lowering, uint16_t* out) {
    store_line(out + 2 * kPair * kPanel, {_mm512_subs_epu16(fp4_pairs<kPair>(words, table).v, lowering)});
}

inline void unpack_columns_fp4(const Matrix& w, int64_t panel, int64_t first, int64_t count, bool folded, uint16_t* out) {
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(w.panel_codes(panel)) + first / 8 * kPanel;
    const uint8_t* exponents = w.exponents + (panel * w.blocks() + first / kMxBlock) * kPanel;
    const __m512i table = folded ? e2m1_raised_table() : e2m1_table();
    for (int64_t k = 0; k < count; k += kMxBlock, exponents += kPanel)
        for (int i = 0; i < kPanelVecs; ++i) {
            const __m512i lowering = folded ? e2m1_lowering(exponents + i * kLanes) : _mm512_setzero_si512();
            for (int64_t word = k; word < k + kMxBlock; word += 8) {
                const uint32_t* line = codes + word / 8 * kPanel + i * kLanes;
                prefetch(line + kPrefetchBytes / 4);
                const __m512i words = _mm512_loadu_si512(line);
                uint16_t* target = out + (word + i) * kPanel;
                unpack_columns_fp4_step<0>(words, table, lowering, target);
                unpack_columns_fp4_step<1>(words, table, lowering, target);
                unpack_columns_fp4_step<2>(words, table, lowering, target);
                unpack_columns_fp4_step<3>(words, table, lowering, target);
            }
        }
}

struct TiledScratch {
    alignas(64) uint16_t columns[kUnpackedInputs * kPanel];
    alignas(64) float sums[kFewRows * kPanel];    // of one block of inputs
    alignas(64) float edge[kTiledRows * kPanel];  // of a panel whose rows do not fit in the output

    // Behind it: round_tiles of as many rows and inputs as there are.
    uint16_t* rows() { return reinterpret_cast<uint16_t*>(this + 1); }
};

// All rows of a block (T tiles of them) against one stretch of columns.
template <bool kAhead>
inline void multiply_rows(Tiles& tiles, const uint16_t* rows, int64_t count, const uint16_t* columns, int64_t steps,
                          float* sums, int64_t lds) {
    const int64_t row_tiles = (count + kTile - 1) / kTile, row_step = row_tiles * kTileWords;
    int64_t tile = 0;
    for (; tile + 2 <= row_tiles; tile += 2)
        multiply_tiles<true, kAhead>(tiles, rows + tile * kTileWords, row_step, columns, steps, sums + tile * kTile * lds, lds);
    if (tile < row_tiles)
        multiply_tiles<false, kAhead>(tiles, rows + tile * kTileWords, row_step, columns, steps, sums + tile * kTile * lds, lds);
}

// The same block by block, each block's sums times its scale.
inline void multiply_scaled(Tiles& tiles, const Matrix& w, int64_t panel, int64_t first, int64_t count, const uint16_t* rows,
                            int64_t row_count, const uint16_t* columns, float* sums, const Totals& totals) {
    const int64_t block = w.format == Format::fp8 ? kFp8Block : kMxBlock;
    const int64_t row_tiles = (row_count + kTile - 1) / kTile, row_step = row_tiles * kTileWords;
    for (int64_t k = 0; k < count; k += block) {
        const int64_t steps = (count - k < block ? count - k : block) / kTileInputs, index = panel * w.blocks() + (first + k) / block;
        Vec scale[kPanelVecs];
        for (int i = 0; i < kPanelVecs; ++i)
            scale[i] = w.format == Format::fp8 ? set1(w.scales[index]) : load_e8m0(w.exponents + index * kPanel + i * kLanes);
        for (int64_t tile = 0; tile < row_tiles; ++tile) {
            const int64_t here = row_count - tile * kTile < kTile ? row_count - tile * kTile : kTile;
            for (int64_t i = 0; i < kFewRows * kPanel; i += kLanes) store(sums + i, zero());
            multiply_tiles<false, false>(tiles, rows + k / kTileInputs * row_step + tile * kTileWords, row_step,
                                         columns + k * kPanel, steps, sums, kPanel);
            for (int64_t r = 0; r < here; ++r)
                for (int i = 0; i < kPanelVecs; ++i) {
                    float* total = totals.rows + (tile * kTile + r) * totals.stride + i * kLanes;
                    store(total, fma(load(sums + r * kPanel + i * kLanes), scale[i], load(total)));
                }
        }
    }
}

// Inputs first .. first + count of one panel for a block of rows.
inline void tiled_panel(Tiles& tiles, const Matrix& w, int64_t panel, int64_t first, int64_t count, int64_t rows,
                        const Totals& totals, TiledScratch& scratch) {
    const int64_t row_words = (rows + kTile - 1) / kTile * kTile;  // words of one input of all rows
    const bool folded = scales_fold(w, panel);
    for (int64_t k = 0; k < count; k += kUnpackedInputs) {
        const int64_t inputs = count - k < kUnpackedInputs ? count - k : kUnpackedInputs;
        const uint16_t* columns = scratch.columns;
        const uint16_t* tiled = scratch.rows() + k * row_words;
        if (w.format == Format::bf16) columns = reinterpret_cast<const uint16_t*>(w.panel_codes(panel)) + (first + k) * kPanel;
        else if (w.format == Format::fp8) unpack_columns_fp8(w, panel, first + k, inputs, folded, scratch.columns);
        else unpack_columns_fp4(w, panel, first + k, inputs, folded, scratch.columns);
        if (!folded)
            multiply_scaled(tiles, w, panel, first + k, inputs, tiled, rows, columns, scratch.sums, totals);
        else if (w.format == Format::bf16 && rows <= kFewRows)
            multiply_rows<true>(tiles, tiled, rows, columns, inputs / kTileInputs, totals.rows, totals.stride);
        else
            multiply_rows<false>(tiles, tiled, rows, columns, inputs / kTileInputs, totals.rows, totals.stride);
    }
}

void linear_tiles(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin, int64_t end,
                  void* memory) {
    if (!w.pairs) {
        linear(w, x, ldx, m, out, ldo, begin, end, memory);
        return;
    }
    TiledScratch& scratch = *static_cast<TiledScratch*>(memory);
    const int64_t stretch = m <= kFewRows ? w.k_padded : kTiledInputs;  // few rows: weights in one stream
    Tiles tiles;
    for (int64_t row = 0; row < m; row += kTiledRows) {
        const int64_t rows = m - row < kTiledRows ? m - row : kTiledRows;
        const bool few = rows <= kFewRows, whole = few || rows % kTile == 0;  // few: tiles have as many rows as there are
        tiles.configure(tile_shapes(rows < kTile ? rows : kTile, few ? (rows > kTile ? rows - kTile : 0) : kTile));
        for (int64_t outer = 0; outer < w.k_padded; outer += stretch) {
            const int64_t inputs = w.k_padded - outer < stretch ? w.k_padded - outer : stretch;
            round_tiles(x + row * ldx, ldx, rows, outer, inputs, w.k, scratch.rows());
            for (int64_t panel = begin; panel < end; ++panel) {
                const int64_t width = w.n - panel * kPanel < kPanel ? w.n - panel * kPanel : kPanel;
                const Totals totals(out + row * ldo + panel * kPanel, ldo, rows, width, whole && width == kPanel, scratch.edge,
                                    outer == 0);
                tiled_panel(tiles, w, panel, outer, inputs, rows, totals, scratch);
                totals.finish();
            }
        }
    }
    tiles.release();
}

int64_t linear_tiles_scratch_bytes(const Matrix& w, int64_t m) {
    if (!w.pairs) return linear_scratch_bytes(w, m);
    const int64_t rows = m < kTiledRows ? (m + kTile - 1) / kTile * kTile : kTiledRows;
    const int64_t inputs = m > kFewRows && w.k_padded > kTiledInputs ? kTiledInputs : w.k_padded;
    return static_cast<int64_t>(sizeof(TiledScratch)) + 2 * rows * inputs;
}

// What the matrix peak is measured with: four independent products of full tiles.
double peak_flops_tiles(int64_t rounds) {
    alignas(64) uint16_t words[kTileWords] = {};
    alignas(64) float sums[kTile * kTile];
    Tiles tiles;
    tiles.configure(tile_shapes(kTile, kTile));
    tiles.template load<kRows0>(words, 64);
    tiles.template load<kRows1>(words, 64);
    tiles.template load<kColumns0>(words, 64);
    tiles.template load<kColumns1>(words, 64);
    tiles.template zero<kSums00>();
    tiles.template zero<kSums01>();
    tiles.template zero<kSums10>();
    tiles.template zero<kSums11>();
    const int64_t repeats = (rounds + 7) / 8;  // a round of tiles takes longer than one of vectors
    for (int64_t repeat = 0; repeat < repeats; ++repeat) {
        tiles.template dot<kSums00, kRows0, kColumns0>();
        tiles.template dot<kSums01, kRows0, kColumns1>();
        tiles.template dot<kSums10, kRows1, kColumns0>();
        tiles.template dot<kSums11, kRows1, kColumns1>();
    }
    tiles.template store<kSums00>(sums, 64);
    tiles.release();
    return 4.0 * 2 * kTile * kTile * kTileInputs * static_cast<double>(repeats);
}

}  // namespace
}  // namespace deepground
