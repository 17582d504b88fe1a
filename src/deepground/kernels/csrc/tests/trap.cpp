#include "trap.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace deepground::tests {
namespace {

long count = 0;

// ---- numbers as BF16 instructions see them (Intel SDM vol. 2: subnormal numbers are zero, to nearest even) -----

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
float widen(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return flushed(x);
}
float fma_flushed(float a, float b, float c) { return flushed(std::fma(a, b, c)); }
uint16_t narrow(float x) {
    x = flushed(x);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return static_cast<uint16_t>((bits | 0x400000u) >> 16);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// ---- the interrupted program's registers ------------------------------------------------------------------

struct Frame {
    mcontext_t* registers;
    uint8_t* xsave;

    explicit Frame(void* context)
        : registers(&static_cast<ucontext_t*>(context)->uc_mcontext), xsave(reinterpret_cast<uint8_t*>(registers->fpregs)) {}

    const uint8_t* code() const { return reinterpret_cast<const uint8_t*>(registers->gregs[REG_RIP]); }
    void skip(const uint8_t* to) { registers->gregs[REG_RIP] = reinterpret_cast<greg_t>(to); }
    uint64_t general(int number) const {
        constexpr int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
        return static_cast<uint64_t>(registers->gregs[order[number]]);
    }
    // Where a part of the extended state lies in the frame.
    static unsigned offset(unsigned component) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        __cpuid_count(0xd, component, a, b, c, d);
        return b;
    }
    uint8_t* piece(unsigned component, unsigned at) {
        uint64_t present;
        std::memcpy(&present, xsave + 512, sizeof present);
        if (!(present >> component & 1)) {  // in its initial state and not written: zeros
            const unsigned total[] = {0, 0, 256, 0, 0, 64, 512, 1024};
            if (component >= 2) std::memset(xsave + offset(component), 0, total[component]);
            else if (component == 1) std::memset(xsave + 160, 0, 256);
            present |= uint64_t{1} << component;
            std::memcpy(xsave + 512, &present, sizeof present);
        }
        return xsave + (component == 1 ? 160 : offset(component)) + at;
    }
    void read_zmm(unsigned number, uint8_t* out) { move_zmm(number, out, false); }
    void write_zmm(unsigned number, uint8_t* in) { move_zmm(number, in, true); }

  private:
    void move_zmm(unsigned number, uint8_t* value, bool write) {
        const auto move = [&](uint8_t* place, unsigned at, size_t size) {
            if (write) std::memcpy(place, value + at, size);
            else std::memcpy(value + at, place, size);
        };
        if (number >= 16) {
            move(piece(7, 64 * (number - 16)), 0, 64);
            return;
        }
        move(piece(1, 16 * number), 0, 16);
        move(piece(2, 16 * number), 16, 16);
        move(piece(6, 32 * number), 32, 32);
    }
};

// The address that a ModRM byte names. `next` is moved behind it; `scale` multiplies an 8-bit displacement.
uint64_t address(const Frame& frame, const uint8_t*& next, int base_high, int index_high, int scale) {
    const int mod = next[0] >> 6, rm = next[0] & 7;
    ++next;
    uint64_t at = 0;
    int base = rm + 8 * base_high;
    bool from_base = true;
    if (rm == 4) {
        const uint8_t sib = *next++;
        const int index = (sib >> 3 & 7) + 8 * index_high;
        base = (sib & 7) + 8 * base_high;
        if (index != 4) at += frame.general(index) << (sib >> 6);
        from_base = !((sib & 7) == 5 && mod == 0);
    } else if (rm == 5 && mod == 0) {
        std::abort();  // relative to the instruction pointer: the kernels' constants are not operands of these
    }
    if (from_base) at += frame.general(base);
    if (mod == 1) {
        at += static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(*next++)) * scale);
    } else if (mod == 2 || !from_base) {
        int32_t displacement;
        std::memcpy(&displacement, next, sizeof displacement);
        next += 4;
        at += static_cast<uint64_t>(static_cast<int64_t>(displacement));
    }
    return at;
}

// ---- AMX ------------------------------------------------------------------------------------------------------

struct TileState {
    bool configured = false;
    uint8_t config[64];
    uint8_t data[8][16][64];

    int rows(int tile) const { return config[48 + tile]; }
    int row_bytes(int tile) const { return config[16 + 2 * tile] + 256 * config[17 + 2 * tile]; }
};
TileState tiles;

void require(bool allowed) {
    if (!allowed) std::abort();  // the processor would fault
}

void configure(const void* memory) {
    std::memcpy(tiles.config, memory, 64);
    require(tiles.config[0] == 1 && tiles.config[1] == 0);
    for (int i = 2; i < 16; ++i) require(tiles.config[i] == 0);
    for (int i = 32; i < 48; ++i) require(tiles.config[i] == 0);
    for (int i = 56; i < 64; ++i) require(tiles.config[i] == 0);
    for (int i = 0; i < 8; ++i) require(tiles.rows(i) <= 16 && tiles.row_bytes(i) <= 64 && (tiles.rows(i) == 0) == (tiles.row_bytes(i) == 0));
    std::memset(tiles.data, 0, sizeof tiles.data);
    tiles.configured = true;
}

uint16_t word(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

void tile_dot(int sum, int left, int right) {
    require(tiles.rows(sum) > 0 && tiles.rows(sum) == tiles.rows(left) && tiles.row_bytes(sum) == tiles.row_bytes(right) &&
            tiles.row_bytes(left) == 4 * tiles.rows(right));
    for (int m = 0; m < tiles.rows(sum); ++m)
        for (int n = 0; n < tiles.row_bytes(sum) / 4; ++n) {
            float first = 0, second = 0, total;
            for (int k = 0; k < tiles.rows(right); ++k) {
                const uint8_t *a = tiles.data[left][m] + 4 * k, *b = tiles.data[right][k] + 4 * n;
                first = fma_flushed(widen(word(a)), widen(word(b)), first);
                second = fma_flushed(widen(word(a + 2)), widen(word(b + 2)), second);
            }
            std::memcpy(&total, tiles.data[sum][m] + 4 * n, 4);
            total = flushed(flushed(total) + flushed(first + second));
            std::memcpy(tiles.data[sum][m] + 4 * n, &total, 4);
        }
}

// VEX with three bytes: C4, inverted R X B and the map, W with inverted V, L and the prefix.
bool run_vex(Frame& frame) {
    const uint8_t* code = frame.code();
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return false;
    const int prefix = code[2] & 3, opcode = code[3], source = ~(code[2] >> 3) & 15;  // prefix: 0 none, 2 F3, 3 F2
    const int index_high = !(code[1] & 0x40), base_high = !(code[1] & 0x20);
    const uint8_t* next = code + 4;
    const int reg = *next >> 3 & 7, rm = *next & 7;
    const bool memory = *next >> 6 != 3;
    if (opcode == 0x49 && prefix == 0 && memory) {
        configure(reinterpret_cast<const void*>(address(frame, next, base_high, index_high, 1)));
    } else if (opcode == 0x49 && prefix == 0) {
        tiles.configured = false;
        ++next;
    } else if (opcode == 0x49 && prefix == 3 && !memory) {
        require(tiles.configured && tiles.rows(reg) > 0);
        std::memset(tiles.data[reg], 0, sizeof tiles.data[reg]);
        ++next;
    } else if (opcode == 0x4b && memory && prefix >= 2) {
        require(tiles.configured && tiles.rows(reg) > 0 && rm == 4);
        const uint64_t stride = frame.general((next[1] >> 3 & 7) + 8 * index_high) << (next[1] >> 6);
        const uint64_t first = address(frame, next, base_high, index_high, 1) - stride;  // without the index
        if (prefix == 3) std::memset(tiles.data[reg], 0, sizeof tiles.data[reg]);
        for (int r = 0; r < tiles.rows(reg); ++r) {
            void* row = reinterpret_cast<void*>(first + static_cast<uint64_t>(r) * stride);
            if (prefix == 3) std::memcpy(tiles.data[reg][r], row, static_cast<size_t>(tiles.row_bytes(reg)));
            else std::memcpy(row, tiles.data[reg][r], static_cast<size_t>(tiles.row_bytes(reg)));
        }
    } else if (opcode == 0x5c && prefix == 2 && !memory) {
        require(tiles.configured);
        tile_dot(reg, rm, source);
        ++next;
    } else {
        return false;
    }
    frame.skip(next);
    return true;
}

// ---- AVX512_BF16 ------------------------------------------------------------------------------------------------

void dot_pairs(uint8_t* sums, const uint8_t* left, const uint8_t* right) {
    for (int i = 0; i < 16; ++i) {
        float sum;
        std::memcpy(&sum, sums + 4 * i, 4);
        sum = fma_flushed(widen(word(left + 4 * i + 2)), widen(word(right + 4 * i + 2)), flushed(sum));
        sum = fma_flushed(widen(word(left + 4 * i)), widen(word(right + 4 * i)), sum);
        std::memcpy(sums + 4 * i, &sum, 4);
    }
}

void narrow_both(uint8_t* out, const uint8_t* high, const uint8_t* low) {
    for (int i = 0; i < 32; ++i) {
        float x;
        std::memcpy(&x, i < 16 ? low + 4 * i : high + 4 * (i - 16), 4);
        const uint16_t bits = narrow(x);
        std::memcpy(out + 2 * i, &bits, 2);
    }
}

// EVEX: 62; inverted R X B R' and the map; W, inverted V and the prefix; z, length, broadcast, inverted V', mask.
bool run_evex(Frame& frame) {
    const uint8_t* code = frame.code();
    if (code[0] != 0x62 || (code[1] & 7) != 2 || (code[2] & 0x80) != 0) return false;
    const int prefix = code[2] & 3, opcode = code[4];
    const bool dot = opcode == 0x52 && prefix == 2, convert = opcode == 0x72 && prefix == 3;
    if ((!dot && !convert) || (code[3] & 0x60) != 0x40 || (code[3] & 0x87) != 0) return false;  // 512 bits, no mask
    const bool broadcast = code[3] & 0x10;
    const auto inverted = [](int byte, int bit) { return !(byte >> bit & 1); };
    const uint8_t* next = code + 5;
    const unsigned target = static_cast<unsigned>((*next >> 3 & 7) + 8 * inverted(code[1], 7) + 16 * inverted(code[1], 4));
    const unsigned first = static_cast<unsigned>((~(code[2] >> 3) & 15) + 16 * inverted(code[3], 3));
    const int index_high = inverted(code[1], 6), base_high = inverted(code[1], 5);
    uint8_t sums[64], left[64], right[64];
    frame.read_zmm(target, sums);
    frame.read_zmm(first, left);
    if (*next >> 6 == 3) {
        frame.read_zmm(static_cast<unsigned>((*next & 7) + 8 * base_high + 16 * index_high), right);
        ++next;
    } else {
        const void* from = reinterpret_cast<const void*>(address(frame, next, base_high, index_high, broadcast ? 4 : 64));
        if (!broadcast) std::memcpy(right, from, 64);
        else
            for (int i = 0; i < 16; ++i) std::memcpy(right + 4 * i, from, 4);
    }
    if (dot) dot_pairs(sums, left, right);
    else narrow_both(sums, left, right);
    frame.write_zmm(target, sums);
    frame.skip(next);
    return true;
}

void on_illegal(int, siginfo_t*, void* context) {
    Frame frame(context);
    if (run_vex(frame) || run_evex(frame)) {
        ++count;
        return;
    }
    signal(SIGILL, SIG_DFL);  // not one of ours: it is raised again
}

}  // namespace

bool trap_illegal_instructions() {
    struct sigaction action = {};
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, nullptr) == 0;
}

long trapped_instructions() { return count; }

}  // namespace deepground::tests

#else

namespace deepground::tests {
bool trap_illegal_instructions() { return false; }
long trapped_instructions() { return 0; }
}  // namespace deepground::tests

#endif
