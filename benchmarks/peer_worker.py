"""One engine, one model, one process: loads, measures, prints the figures as a line of JSON.

    PYTHON benchmarks/peer_worker.py '{"engine": "llama.cpp", "model": "m1-q8_0.gguf", "vocab_size": 151936}'

`peers.py` starts it with the interpreter in which the engine is installed; it needs that engine and nothing else. Every
engine is driven by the same random token ids, decodes greedily, and hands over the times at which tokens were there.

A measurement during which other programs took processor time is repeated, and the least disturbed
one is kept; its disturbance is reported as `foreign`, the share of all processor time that others took.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Protocol

PREFILLS = {"prefill-512": 512, "prefill-2048": 2048}
DECODES = {"decode": (1, 32, 64), "decode-4k": (1, 4096, 32), "streams-8": (8, 32, 32), "streams-16": (16, 32, 32)}
"""Streams, prompt tokens and new tokens."""
MEASURES = (*DECODES, *PREFILLS)
CONTEXT = 4352
MAX_STREAMS = 16


class Worker(Protocol):
    """A loaded engine."""

    def run(self, prompts: list[list[int]], new: int) -> list[float]:
        """Continue all prompts greedily by `new` tokens, at the same time.

        Returns:
            For each token number, the clock (`time.perf_counter`) when the last of the streams had it.
        """
        ...


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level interface, several sequences in one batch."""

    def __init__(self, model: str, spec: dict[str, Any]) -> None:
        import numpy

        llama_cpp = importlib.import_module("llama_cpp")
        self.lib: Any = llama_cpp
        self.numpy = numpy
        self.vocab_size = int(spec["vocab_size"])
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), params)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = CONTEXT + MAX_STREAMS * 128, 2048, 512
        context.n_seq_max, context.kv_unified = MAX_STREAMS, True
        context.n_threads = context.n_threads_batch = int(spec["threads"])
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise SystemExit("llama.cpp could not make a context")
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def run(self, prompts: list[list[int]], new: int) -> list[float]:
        """As `Worker.run`."""
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        tokens: list[int] = []
        todo = [
            (token, position, stream, position == len(prompt) - 1)
            for stream, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for begin in range(0, len(todo), 2048):
            tokens += self._decode(todo[begin : begin + 2048])
        times = [time.perf_counter()]
        for number in range(new - 1):
            step = [(token, len(prompts[s]) + number, s, True) for s, token in enumerate(tokens)]
            tokens = self._decode(step)
            times.append(time.perf_counter())
        return times

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """The most likely tokens after the rows that ask for them."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (token, position, stream, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, stream
            batch.logits[index] = wanted
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp could not decode")
        wanted_rows = [index for index, row in enumerate(rows) if row[3]]
        return [int(self._logits(index).argmax()) for index in wanted_rows]

    def _logits(self, index: int) -> Any:
        pointer = self.lib.llama_get_logits_ith(self.context, index)
        return self.numpy.ctypeslib.as_array(pointer, shape=(self.vocab_size,))


class Vllm:
    """vLLM's CPU build, its engine in this process."""

    def __init__(self, model: str, spec: dict[str, Any]) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{int(spec['threads']) - 1}")
        vllm = importlib.import_module("vllm")
        self.llm = vllm.LLM(
            model=model,
            dtype=spec.get("dtype", "bfloat16"),
            skip_tokenizer_init=True,
            max_model_len=CONTEXT,
            max_num_seqs=MAX_STREAMS,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        self.params = vllm.SamplingParams
        self.count = 0

    def run(self, prompts: list[list[int]], new: int) -> list[float]:
        """As `Worker.run`."""
        engine = self.llm.llm_engine
        params = self.params(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        for prompt in prompts:
            self.count += 1
            engine.add_request(f"request-{self.count}", {"prompt_token_ids": prompt}, params)
        times: list[float] = [0.0] * new
        while engine.has_unfinished_requests():
            outputs = engine.step()
            now = time.perf_counter()
            for output in outputs:
                times[len(output.outputs[0].token_ids) - 1] = now
        return times


class Transformers:
    """transformers with its own cache; all prompts have one length, so that nothing is padded."""

    def __init__(self, model: str, spec: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(int(spec["threads"]))
        dtype = getattr(torch, spec.get("dtype", "bfloat16"))
        self.model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self.model.train(False)

    def run(self, prompts: list[list[int]], new: int) -> list[float]:
        """As `Worker.run`."""
        with self.torch.inference_mode():
            ids, cache, times = self.torch.tensor(prompts), None, []
            for _ in range(new):
                output = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
                times.append(time.perf_counter())
        return times


class Deepground:
    """This project's engine, without speculation, so that every token is computed as the peers compute theirs."""

    def __init__(self, model: str, spec: dict[str, Any]) -> None:
        from deepground import SamplingParams
        from deepground.engine import Engine, EngineConfig

        config = EngineConfig(
            num_threads=int(spec["threads"]),
            max_sequences=MAX_STREAMS,
            num_pages=(CONTEXT + MAX_STREAMS * 128) // 16,
            **spec.get("config", {}),
        )
        self.engine = Engine.from_folder(model, config, **spec.get("load", {}))
        self.params = SamplingParams

    def run(self, prompts: list[list[int]], new: int) -> list[float]:
        """As `Worker.run`."""
        params = self.params(temperature=0, max_tokens=new, ignore_eos=True)
        counts = {self.engine.add(prompt, params): 0 for prompt in prompts}
        times = [0.0] * new
        while self.engine.has_work:
            outputs = self.engine.step()
            now = time.perf_counter()
            for output in outputs:
                counts[output.request_id] += len(output.token_ids)
                times[counts[output.request_id] - 1] = now
        return times


ENGINES: dict[str, Any] = {
    "deepground": Deepground,
    "llama.cpp": LlamaCpp,
    "vllm": Vllm,
    "transformers": Transformers,
}


class Clock:
    """Wall time, and the processor time that this process and others took meanwhile."""

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def foreign(self) -> float:
        """Share of all processor time since the start that other programs, or other machines on the host, took."""
        wall = time.perf_counter() - self.start
        others = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return max(0.0, others / (wall * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(worker: Worker, name: str, vocab_size: int, seed: int) -> dict[str, float]:
    """One measurement: tokens per second, from the median step when decoding."""
    streams, prompt_length, new = DECODES[name] if name in DECODES else (1, PREFILLS[name], 1)
    generator = random.Random(f"{name}-{seed}")
    prompts = [[generator.randrange(300, vocab_size) for _ in range(prompt_length)] for _ in range(streams)]
    clock = Clock()
    times = worker.run(prompts, new)
    foreign = clock.foreign()
    first_s = times[0] - clock.start
    figures = {"first_token_s": first_s, "foreign": foreign}
    if new == 1:
        return figures | {"rate": prompt_length / first_s}
    steps = [after - before for before, after in itertools.pairwise(times)]
    return figures | {"rate": streams / statistics.median(steps), "mean_rate": streams * (new - 1) / sum(steps)}


def read_files(model: Path) -> float:
    """Seconds that reading the weights takes once they are in the file cache, where this leaves them for the engine."""
    files = sorted(model.glob("*.safetensors")) if model.is_dir() else [model]
    for _ in range(2):
        start = time.perf_counter()
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.read(2**24):
                    pass
    return time.perf_counter() - start


def main() -> None:
    """Load, warm up, measure."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    spec.setdefault("threads", 2)
    read_s = read_files(Path(spec["model"]))
    clock = Clock()
    worker: Worker = ENGINES[spec["engine"]](spec["model"], spec)
    result: dict[str, Any] = {"load_s": time.perf_counter() - clock.start, "load_foreign": clock.foreign()}
    result["read_s"] = read_s
    worker.run([[7] * 16], 4)
    for name in spec.get("measures", MEASURES):
        attempts = []
        for attempt in range(spec.get("attempts", 3)):
            attempts.append(measure(worker, name, spec["vocab_size"], spec.get("seed", 0) * 100 + attempt))
            if attempts[-1]["foreign"] <= spec.get("quiet", 0.05):
                break
        result[name] = min(attempts, key=lambda figures: figures["foreign"])
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    result["peak_bytes"] = int(peak.split()[1]) * 1024
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
