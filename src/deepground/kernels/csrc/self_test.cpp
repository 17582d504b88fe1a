#include "self_test.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels.h"
#include "pack.h"

#if defined(__unix__) || defined(__APPLE__)
#include <csignal>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace deepground {
namespace {

// Sizes with a partial panel and a partial block; rows for both shapes of tiles.
constexpr int64_t kOutputs = 40, kInputs = 160, kRowCounts[] = {1, 19};
constexpr int kMismatch = 1, kSeconds = 5;

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Free>;

Memory aligned(int64_t bytes) {
    return Memory(static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))));
}

// One product by two tables: all memory is there before the child is made.
struct Trial {
    Memory memory[2];
    Matrix w[2];
    Memory scratch[2];
    std::vector<float> out[2];
    int64_t rows = 0;
};

// Codes that run through all values but NaN, and scales of three sizes.
void pack_pattern(const Matrix& w) {
    std::vector<uint16_t> words(kOutputs * kInputs);
    std::vector<uint8_t> bytes(kOutputs * kInputs), exponents(kOutputs * kInputs / kMxBlock);
    for (size_t i = 0; i < words.size(); ++i) {
        const size_t mixed = i * 2654435761u >> 7;
        words[i] = static_cast<uint16_t>(0x3e00 + (mixed & 0x81ff));
        bytes[i] = static_cast<uint8_t>(mixed);
        if (w.format == Format::fp8 && (bytes[i] & 0x7f) == 0x7f) bytes[i] = 0;
    }
    for (size_t i = 0; i < exponents.size(); ++i) exponents[i] = static_cast<uint8_t>(126 + i % 3);
    const float scales[] = {0.5f, 2.0f, 1.0f, 0.25f};
    if (w.format == Format::bf16) pack_bf16(w, words.data(), kInputs, 0, w.panels());
    else if (w.format == Format::fp8) pack_fp8(w, bytes.data(), kInputs, scales, 2, kPanel, 0, w.panels());
    else pack_mxfp4(w, bytes.data(), kInputs / 2, exponents.data(), kInputs / kMxBlock, 0, w.panels());
}

Trial make_trial(const Kernels* const* tables, Format format, int64_t rows) {
    Trial trial;
    trial.rows = rows;
    for (int i = 0; i < 2; ++i) {
        const bool pairs = tables[i]->linear.pairs;
        trial.memory[i] = aligned(packed_bytes(format, pairs, kOutputs, kInputs));
        trial.w[i] = matrix_over(trial.memory[i].get(), format, pairs, kOutputs, kInputs);
        pack_pattern(trial.w[i]);
        trial.scratch[i] = aligned(tables[i]->linear.scratch_bytes(trial.w[i], rows) + 64);
        trial.out[i].resize(static_cast<size_t>(rows * kOutputs));
    }
    return trial;
}

void compute(const Kernels& table, Trial& trial, int side, const float* x) {
    table.linear.linear(trial.w[side], x, kInputs, trial.rows, trial.out[side].data(), kOutputs, 0, trial.w[side].panels(),
                        trial.scratch[side].get());
}

// The activations are exact in BF16 and so are all products: only the order of the sums differs.
bool agree(const Trial& trial) {
    float largest = 0, difference = 0;
    for (size_t i = 0; i < trial.out[0].size(); ++i) {
        largest = std::fmax(largest, std::fabs(trial.out[0][i]));
        const float here = std::fabs(trial.out[0][i] - trial.out[1][i]);
        difference = here <= difference ? difference : here;  // NaN is a difference
    }
    return difference <= 1e-4f * largest;
}

#if defined(__unix__) || defined(__APPLE__)
[[noreturn]] void run_child(const Kernels& table, std::vector<Trial>& trials, const float* x) {
    for (int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP, SIGABRT, SIGALRM}) std::signal(number, SIG_DFL);
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    alarm(kSeconds);
    bool right = true;
    for (Trial& trial : trials) {
        compute(table, trial, 1, x);
        right = right && agree(trial);
    }
    _exit(right ? 0 : kMismatch);
}

std::string wait_for(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return "its self-test was lost";
    if (WIFSIGNALED(status)) return "its self-test ended with signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
    return "its self-test gave wrong results";
}
#endif

}  // namespace

std::string self_test(Isa isa) {
    const Kernels* tables[] = {kernels_for(Isa::generic), kernels_for(isa)};
    if (tables[1] == nullptr) return "this library holds no code for it";
    std::vector<float> x(static_cast<size_t>(kRowCounts[1] * kInputs));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 37 % 65) - 32) * 0.125f;
    std::vector<Trial> trials;
    for (Format format : {Format::bf16, Format::fp8, Format::mxfp4})
        for (int64_t rows : kRowCounts) {
            trials.push_back(make_trial(tables, format, rows));
            compute(*tables[0], trials.back(), 0, x.data());
        }
#if defined(__unix__) || defined(__APPLE__)
    const pid_t child = fork();
    if (child < 0) return "its self-test could not be started";
    if (child == 0) run_child(*tables[1], trials, x.data());
    return wait_for(child);
#else
    return "it cannot be tried out here";
#endif
}

}  // namespace deepground
