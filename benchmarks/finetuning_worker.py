"""One trainer on prepared samples: deepground, a plain transformers loop, or TRL. Prints tokens per second.

Started by finetuning.py. The plain loop and TRL get what their users would switch on for a CPU: samples padded to the
longest of a batch for the loop, packing for TRL (its default strategy), fused AdamW.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    """Train and print the rate."""
    name, folder, precision, row, rows, steps, warm_up = sys.argv[1:]
    torch.set_num_threads(int(torch.get_num_threads()))
    samples = json.loads((Path(folder) / "samples.json").read_text())
    settings = (Path(folder), samples, precision, int(row), int(rows), int(steps), int(warm_up))
    rate = {"deepground": run_deepground, "transformers": run_transformers, "trl": run_trl}[name](*settings)
    print(rate)


def run_deepground(
    folder: Path, samples: list[Any], precision: str, row: int, rows: int, steps: int, warm_up: int
) -> float:
    """Our fine-tuning loop."""
    from deepground.train import OptimizerConfig, Sample, Schedule
    from deepground.train.sft import SftConfig, SftTrainer, load_for_training

    decoder = load_for_training(folder / "model", None, 0)
    config = SftConfig(
        schedule=Schedule(total_steps=steps),
        num_rows=rows,
        row_length=row,
        micro_rows=rows,
        optimizer=OptimizerConfig(muon=False, weight_decay=0.0),
        precision="bfloat16" if precision == "bfloat16" else "float32",
    )
    made = [Sample(s["ids"], s["prompt"]) for s in samples]
    trainer = SftTrainer(decoder, lambda i: made[i % len(made)], [], config, pad_id=2)
    tokens = 0
    start = time.perf_counter()
    for step in range(steps):
        if step == warm_up:
            start, tokens = time.perf_counter(), 0
        tokens += trainer.run_step().num_tokens
    return tokens / (time.perf_counter() - start)


def run_transformers(
    folder: Path, samples: list[Any], precision: str, row: int, rows: int, steps: int, warm_up: int
) -> float:
    """The loop that people write: batches of padded samples, as many tokens a step as the others' rows hold."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    position = tokens = 0
    start = time.perf_counter()
    for step in range(steps):
        if step == warm_up:
            start, tokens = time.perf_counter(), 0
        batch: list[Any] = []
        while sum(len(s["ids"]) for s in batch) < 0.95 * rows * row:
            batch.append(samples[position % len(samples)])
            position += 1
        longest = max(len(s["ids"]) for s in batch)
        ids = torch.full((len(batch), longest), 2)
        labels = torch.full((len(batch), longest), -100)
        mask = torch.zeros((len(batch), longest), dtype=torch.int64)
        for b, sample in enumerate(batch):
            length = len(sample["ids"])
            ids[b, :length] = torch.tensor(sample["ids"])
            labels[b, sample["prompt"] : length] = ids[b, sample["prompt"] : length]
            mask[b, :length] = 1
            tokens += length
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return tokens / (time.perf_counter() - start)


def run_trl(folder: Path, samples: list[Any], precision: str, row: int, rows: int, steps: int, warm_up: int) -> float:
    """TRL's SFTTrainer with packing, on ids that are tokenised already."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_list(
        [
            {"input_ids": s["ids"], "completion_mask": [0] * s["prompt"] + [1] * (len(s["ids"]) - s["prompt"])}
            for s in samples
        ]
    )
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=rows,
        packing=True,
        max_length=row,
        completion_only_loss=True,
        optim="adamw_torch_fused",
        learning_rate=1e-3,
        bf16=precision == "bfloat16",
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    times: list[float] = []
    seen: list[int] = []

    class Clock(TrainerCallback):
        """Notes when each step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
    collate = trainer.data_collator

    def counted(features: list[Any]) -> Any:
        seen.append(sum(len(feature["input_ids"]) for feature in features))
        return collate(features)

    trainer.data_collator = counted
    trainer.train()
    return sum(seen[warm_up:steps]) / (times[-1] - times[warm_up - 1])


if __name__ == "__main__":
    main()
