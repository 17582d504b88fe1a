"""The bundled model's speed here and in transformers, in one run: same weights, same prompts, same number of tokens.

    python benchmarks/peers.py --threads 2

Both compute in float32 and decode greedily; rounds alternate, and the medians are compared, so that a machine
whose speed drifts does not favour either. transformers gets a padded batch, which is how it serves several at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import AutoModelForCausalLM

from deepground import LLM, Message, SamplingParams
from deepground.engine import PILOT_FOLDER
from deepground.model import CHAT_FORMATS, Tokenizer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--new", type=int, default=128, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    llm = LLM(dtype="float32")
    theirs: torch.nn.Module = AutoModelForCausalLM.from_pretrained(PILOT_FOLDER, dtype=torch.float32)
    theirs.float().eval()
    params = SamplingParams(temperature=0, max_tokens=arguments.new, ignore_eos=True)
    print(f"{arguments.threads} thread(s), {arguments.new} tokens per request, median of {arguments.rounds} rounds")
    print(f"{'batch':>6}{'deepground':>14}{'transformers':>14}{'ratio':>8}   tokens/s")
    for batch in arguments.batches:
        prompts = make_prompts(batch)
        mine, other = [], []
        for _ in range(arguments.rounds):
            mine.append(timed(partial(llm.generate, prompts, params)))
            other.append(timed(partial(generate, theirs, prompts, arguments.new)))
        rates = [batch * arguments.new / statistics.median(seconds) for seconds in (mine, other)]
        print(f"{batch:6}{rates[0]:14.0f}{rates[1]:14.0f}{rates[0] / rates[1]:8.2f}")


def make_prompts(batch: int) -> list[list[int]]:
    """Questions of about the same length."""
    tokenizer, chat_format = Tokenizer.from_folder(PILOT_FOLDER), CHAT_FORMATS["deepseek-v3.1"]
    questions = [f"What is {100 + 37 * index} + {200 + 41 * index}?" for index in range(batch)]
    return [tokenizer.encode_prompt(chat_format.render([Message.user(question)])) for question in questions]


@torch.inference_mode()
def generate(model: torch.nn.Module, prompts: list[list[int]], new: int) -> None:
    """Greedy decoding in transformers, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[2] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(  # type: ignore[operator]
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=2
    )
    assert output.shape[1] == longest + new


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
