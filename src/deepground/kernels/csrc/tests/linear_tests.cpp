// Linear maps of every format against double loops.
#include "check.h"

namespace deepground::tests {
namespace {

const char* format_name(Format format) {
    switch (format) {
        case Format::f32: return "f32";
        case Format::bf16: return "bf16";
        case Format::fp8: return "fp8";
        case Format::mxfp4: return "mxfp4";
    }
    return "";
}

float fp8_scale(Random& random, Scales scales) {
    if (scales == Scales::any) return std::exp2(4.0f * random.uniform());
    if (scales == Scales::extreme) return random.below(2) ? std::ldexp(1.0f, -126) : std::ldexp(1.0f, 100 + random.below(15));
    return std::ldexp(1.0f, random.below(40) - 20);
}

uint8_t mx_exponent(Random& random, Scales scales) {
    if (scales == Scales::extreme) return static_cast<uint8_t>(random.below(2) ? random.below(3) : 210 + random.below(5));
    return static_cast<uint8_t>(100 + random.below(50));
}

void fill_fp8(TestMatrix& m, Random& random, Scales scales) {
    const int64_t n = m.w.n, k = m.w.k, across = (k + 127) / 128;
    std::vector<uint8_t> codes(static_cast<size_t>(n * k));
    std::vector<float> scale(static_cast<size_t>((n + 127) / 128 * across));
    for (auto& code : codes)
        do code = static_cast<uint8_t>(random.bits());
        while ((code & 0x7f) == 0x7f);
    for (auto& s : scale) s = fp8_scale(random, scales);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j)
            m.weights[static_cast<size_t>(i * k + j)] =
                static_cast<double>(e4m3_value(codes[static_cast<size_t>(i * k + j)])) * scale[static_cast<size_t>(i / 128 * across + j / 128)];
    expect(pack_fp8(m.w, codes.data(), k, scale.data(), across, 128, 0, m.w.panels()), m.name + " packs");
    codes[codes.size() / 2] = 0xff;
    expect(!pack_fp8(m.w, codes.data(), k, scale.data(), across, 128, 0, m.w.panels()), m.name + " refuses NaN");
    codes[codes.size() / 2] = 0;
    m.weights[codes.size() / 2] = 0;
    pack_fp8(m.w, codes.data(), k, scale.data(), across, 128, 0, m.w.panels());
}

void fill_mxfp4(TestMatrix& m, Random& random, Scales scales) {
    const int64_t n = m.w.n, k = m.w.k, bytes = (k + 1) / 2, across = (k + 31) / 32;
    std::vector<uint8_t> codes(static_cast<size_t>(n * bytes)), exponents(static_cast<size_t>(n * across));
    for (auto& code : codes) code = static_cast<uint8_t>(random.bits());
    for (auto& e : exponents) e = mx_exponent(random, scales);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j) {
            const int code = codes[static_cast<size_t>(i * bytes + j / 2)] >> (j % 2 * 4) & 15;
            m.weights[static_cast<size_t>(i * k + j)] =
                std::ldexp(static_cast<double>(e2m1_value(code)), exponents[static_cast<size_t>(i * across + j / 32)] - 127);
        }
    pack_mxfp4(m.w, codes.data(), bytes, exponents.data(), across, 0, m.w.panels());
}

// Rows of activations that BF16 holds exactly, zeros behind k.
std::vector<float> make_rows(const Matrix& w, int64_t rows, float size, uint64_t seed) {
    Random random(seed);
    std::vector<float> x(static_cast<size_t>(rows * w.k_padded));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < w.k; ++k)
            x[static_cast<size_t>(r * w.k_padded + k)] = random.below(9) == 0 ? 0.0f : bf16_value(to_bf16(size * random.uniform()));
    return x;
}

constexpr float kUntouched = -12345.0f;

// Outputs of rows `first` .. `first + rows` in memory of exactly their size plus one column that must not change.
std::vector<float> run(const Kernels& table, const TestMatrix& m, const std::vector<float>& x, int64_t first, int64_t rows,
                       int64_t cut) {
    const int64_t ldo = m.w.n + 1;
    std::vector<float> exact(x.begin() + first * m.w.k_padded, x.begin() + (first + rows) * m.w.k_padded);
    std::vector<float> out(static_cast<size_t>(rows * ldo), kUntouched);
    const Aligned<char> scratch = aligned<char>(table.linear.scratch_bytes(m.w, rows));
    const auto part = [&](int64_t begin, int64_t end) {
        if (begin < end) table.linear.linear(m.w, exact.data(), m.w.k_padded, rows, out.data(), ldo, begin, end, scratch.get());
    };
    part(0, cut);
    part(cut, m.w.panels());
    return out;
}

void check_product(const Kernels& table, const TestMatrix& m, int64_t rows, float size) {
    const std::string name = m.name + " rows " + std::to_string(rows);
    const std::vector<float> x = make_rows(m.w, rows, size, 7);
    const std::vector<float> out = run(table, m, x, 0, rows, m.w.panels() / 2);
    const int64_t n = m.w.n, ldo = n + 1;
    double worst = 0;
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0, total = 0;
            for (int64_t k = 0; k < m.w.k; ++k) {
                const double product = static_cast<double>(x[static_cast<size_t>(r * m.w.k_padded + k)]) * m.weights[static_cast<size_t>(i * m.w.k + k)];
                sum += product;
                total += std::fabs(product);
            }
            const double off = std::fabs(out[static_cast<size_t>(r * ldo + i)] - sum) / (total + 1e-30);
            worst = off <= worst ? worst : off;  // NaN is the worst
        }
        expect(out[static_cast<size_t>(r * ldo + n)] == kUntouched, name + " writes behind a row");
    }
    expect(worst < 1e-6, name + ": error " + std::to_string(worst));
    for (int64_t r : {int64_t{0}, rows - 1}) {
        const std::vector<float> alone = run(table, m, x, r, 1, 0);
        expect(std::memcmp(alone.data(), out.data() + r * ldo, static_cast<size_t>(n) * 4) == 0, name + " differs from a row alone");
    }
}

void check_unpacked(const Kernels& table, const TestMatrix& m) {
    std::vector<float> panel(static_cast<size_t>(m.w.k_padded * kPanel));
    bool same = true;
    for (int64_t p = 0; p < m.w.panels(); ++p) {
        table.linear.unpack(m.w, p, panel.data());
        for (int64_t i = p * kPanel; i < std::min(m.w.n, (p + 1) * kPanel); ++i)
            for (int64_t k = 0; k < m.w.k; ++k)
                same = same && panel[static_cast<size_t>(k * kPanel + i % kPanel)] == static_cast<float>(m.weights[static_cast<size_t>(i * m.w.k + k)]);
    }
    expect(same, m.name + " unpacks to other weights");
}

}  // namespace

TestMatrix make_matrix(const Kernels& table, Format format, int64_t n, int64_t k, Scales scales, uint64_t seed) {
    TestMatrix m;
    Random random(seed);
    m.name = std::string(isa_name(table.isa)) + " " + format_name(format) + " " + std::to_string(n) + "x" + std::to_string(k) +
             (scales == Scales::any ? " any scale" : scales == Scales::extreme ? " extreme scales" : "");
    m.memory = aligned<uint8_t>(packed_bytes(format, table.linear.pairs, n, k));
    m.w = matrix_over(m.memory.get(), format, table.linear.pairs, n, k);
    m.weights.resize(static_cast<size_t>(n * k));
    if (format == Format::f32) {
        std::vector<float> values(m.weights.size());
        for (size_t i = 0; i < values.size(); ++i) m.weights[i] = values[i] = random.uniform();
        pack_f32(m.w, values.data(), k, 0, m.w.panels());
    } else if (format == Format::bf16) {
        std::vector<uint16_t> values(m.weights.size());
        for (size_t i = 0; i < values.size(); ++i) m.weights[i] = bf16_value(values[i] = to_bf16(random.uniform()));
        pack_bf16(m.w, values.data(), k, 0, m.w.panels());
    } else if (format == Format::fp8) {
        fill_fp8(m, random, scales);
    } else {
        fill_mxfp4(m, random, scales);
    }
    return m;
}

void test_linear(const Kernels& table) {
    const int64_t shapes[][2] = {{1, 1}, {33, 77}, {64, 128}, {40, 160}, {70, 1100}};
    for (Format format : {Format::f32, Format::bf16, Format::fp8, Format::mxfp4})
        for (const auto& [n, k] : shapes)
            for (Scales scales : {Scales::power_of_two, Scales::any, Scales::extreme}) {
                if (scales != Scales::power_of_two && (format == Format::f32 || format == Format::bf16)) continue;
                if (scales == Scales::any && format == Format::mxfp4) continue;
                const TestMatrix m = make_matrix(table, format, n, k, scales, static_cast<uint64_t>(n * k));
                check_unpacked(table, m);
                for (int64_t rows : {1, 2, 5, 8, 13, 16, 19, 32, 37}) check_product(table, m, rows, 1.0f);
                check_product(table, m, 3, scales == Scales::extreme ? 1e-3f : 1e20f);
            }
    check_product(table, make_matrix(table, Format::fp8, 40, 160, Scales::power_of_two, 3), 401, 1.0f);
    for (Format format : {Format::bf16, Format::fp8, Format::mxfp4}) {
        const TestMatrix wide = make_matrix(table, format, 33, 3300, Scales::power_of_two, 4);
        for (int64_t rows : {1, 9, 40, 200}) check_product(table, wide, rows, 1.0f);
    }
}

void test_layouts_agree(const Kernels& table, const Kernels& other) {
    for (Format format : {Format::bf16, Format::fp8, Format::mxfp4})
        for (Scales scales : {Scales::power_of_two, Scales::any, Scales::extreme})
            for (const auto& [n, k] : {std::pair<int64_t, int64_t>{40, 130}, {32, 672}}) {
                if (scales != Scales::power_of_two && (format == Format::bf16 || (format == Format::mxfp4 && scales == Scales::any))) continue;
                const TestMatrix m = make_matrix(table, format, n, k, scales, 11);
                for (int64_t rows : {1, 19, 35}) {
                    const std::vector<float> x = make_rows(m.w, rows, 1.0f, 5);
                    expect(run(table, m, x, 0, rows, 0) == run(other, m, x, 0, rows, 1),
                           m.name + " rows " + std::to_string(rows) + " differs from " + isa_name(other.isa));
                }
            }
}

}  // namespace deepground::tests
