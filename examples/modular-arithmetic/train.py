"""Trains the demo: a small Llama on addition modulo p and one PEFT LoRA adapter per other task.

The base model and every adapter are trained on the whole p * p table, so that what an answer
shows is which adapter computed it, not how well anything generalises. Everything is seeded, runs
on one CPU thread in float32, and is written by `save_pretrained` of transformers and PEFT.

    python train.py                    trains what is missing, extends the vocabulary, measures
    python train.py --force NAME ...   trains these again (`add` is the base; it comes first)
    python train.py --measure          only measures, writes results.json
"""

import argparse
import json
import math
import re
import shutil
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from extend_vocabulary import extend
from tasks import MODULUS, PROMPT_TEMPLATE, TASKS, Task
from vocabulary import LEARNED_TOKENS, build_tokenizer

HERE = Path(__file__).resolve().parent
MODEL_DIR = HERE / "model"
ADAPTERS_DIR = HERE / "adapters"

BATCH_SIZE = 256
CHECK_EVERY_STEPS = 100
# Training stops when every answer of the table leads its runner-up by this much (logits).
MARGIN_MIN = 4.0
ACCURACY_MIN = 0.99


def build_base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LEARNED_TOKENS,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            # Large random features: quickly trained, and enough is left for adapters to build on.
            initializer_range=0.09,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )


def encode_table(tokenizer: PreTrainedTokenizerFast, task: Task) -> torch.Tensor:
    """Token ids [p * p, 7]: `<s> a @ b = answer </s>`, row a * p + b."""
    rows = []
    answers = task.table()
    for a in range(MODULUS):
        for b in range(MODULUS):
            text = f"{PROMPT_TEMPLATE.format(a=a, b=b)} {answers[a * MODULUS + b]}"
            rows.append(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])
    return torch.tensor(rows)


@torch.no_grad()
def measure(model: torch.nn.Module, table: torch.Tensor) -> tuple[float, float]:
    """Share of rows where both answer and `</s>` are the arg max, and the smallest margin."""
    model.eval()
    logits = model(input_ids=table[:, :-1]).logits[:, -2:]
    top = logits.topk(2, dim=-1)
    right = (top.indices[..., 0] == table[:, -2:]).all(dim=-1)
    margin = (top.values[..., 0] - top.values[..., 1]).min()
    model.train()
    return right.double().mean().item(), margin.item() if bool(right.all()) else float("-inf")


def fit(model: torch.nn.Module, table: torch.Tensor, task: Task, weight_decay: float) -> int:
    """Trains until every answer is right by MARGIN_MIN; returns the steps taken."""
    generator = torch.Generator().manual_seed(task.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=task.learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay
    )
    warmup_steps = 50
    model.train()
    started = time.monotonic()
    for step in range(1, task.steps_max + 1):
        decay = 0.5 * (1.0 + math.cos(math.pi * step / task.steps_max))
        rate = task.learning_rate * min(1.0, step / warmup_steps) * decay
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = table[torch.randint(len(table), (BATCH_SIZE,), generator=generator)]
        logits = model(input_ids=batch[:, :-1]).logits[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % CHECK_EVERY_STEPS == 0:
            accuracy, margin = measure(model, table)
            seconds = time.monotonic() - started
            print(
                f"{task.name:13} step {step:5} loss {loss.item():.5f} "
                f"accuracy {accuracy:.4f} margin {margin:.2f} {seconds:.0f} s",
                flush=True,
            )
            if margin >= MARGIN_MIN:
                return step
    return task.steps_max


def train_base(task: Task) -> None:
    torch.manual_seed(task.seed)
    tokenizer = build_tokenizer()
    model = build_base(tokenizer)
    fit(model, encode_table(tokenizer, task), task, weight_decay=0.1)
    shutil.rmtree(MODEL_DIR, ignore_errors=True)
    model.save_pretrained(MODEL_DIR)
    tokenizer.save_pretrained(MODEL_DIR)
    (MODEL_DIR / "model.safetensors").chmod(0o644)


def load_base() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)


def load_trained() -> LlamaForCausalLM:
    """The base as training knows it: without the rows that extend_vocabulary.py adds."""
    model = load_base()
    # Fresh tables are drawn before they are overwritten; an adapter's seed must not notice.
    with torch.random.fork_rng():
        model.resize_token_embeddings(LEARNED_TOKENS)
    return model


def train_adapter(task: Task) -> None:
    torch.manual_seed(task.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_DIR)
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **task.lora)
    model = get_peft_model(load_trained(), config)
    fit(model, encode_table(tokenizer, task), task, weight_decay=0.0)
    directory = ADAPTERS_DIR / task.name
    shutil.rmtree(directory, ignore_errors=True)
    # PEFT would add the embeddings: the base on disk has more of them than was trained.
    model.save_pretrained(directory, save_embedding_layers=False)
    tidy_adapter(directory)


def tidy_adapter(directory: Path) -> None:
    """Makes PEFT's files the same on every machine: no path to the base, sets in sorted order."""
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "model"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(path, config)
    for file in directory.iterdir():
        file.chmod(0o644)


def coincidence(left: Task, right: Task) -> float:
    """Share of the table on which the two tasks have the same answer."""
    pairs = list(zip(left.table(), right.table(), strict=True))
    return sum(x == y for x, y in pairs) / len(pairs)


def measure_all() -> dict:
    """Accuracy of the base and of every adapter, as saved, on every task."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_DIR)
    tables = {task.name: encode_table(tokenizer, task) for task in TASKS}
    accuracy, margin, parameters = {}, {}, {}
    for task in TASKS:
        model = load_base()
        parameters[task.name] = sum(p.numel() for p in model.parameters())
        if task.lora is not None:
            base_parameters = parameters[task.name]
            model = PeftModel.from_pretrained(model, ADAPTERS_DIR / task.name)
            total = sum(p.numel() for p in model.parameters())
            parameters[task.name] = total - base_parameters
        accuracy[task.name] = {name: measure(model, table)[0] for name, table in tables.items()}
        margin[task.name] = round(measure(model, tables[task.name])[1], 3)
    return {
        "modulus": MODULUS,
        "questions": MODULUS**2,
        "accuracy": accuracy,
        "coincidence": {x.name: {y.name: coincidence(x, y) for y in TASKS} for x in TASKS},
        "marginMin": margin,
        "parameters": parameters,
    }


def tasks_json() -> dict:
    tasks = []
    for task in TASKS:
        entry = {
            "name": task.name,
            "adapter": None if task.lora is None else task.name,
            "formula": task.formula,
            "kind": task.kind,
        }
        if task.terms:
            entry["terms"] = [list(term) for term in task.terms]
        tasks.append(entry)
    return {"modulus": MODULUS, "promptTemplate": PROMPT_TEMPLATE, "tasks": tasks}


def write_json(path: Path, value: dict) -> None:
    """Indented JSON, lists of numbers on one line."""
    text = json.dumps(value, indent=2)
    text = re.sub(r"\[[\[\]\d,\s]+\]", lambda match: " ".join(match[0].split()), text)
    path.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n")


def print_matrix(results: dict) -> None:
    names = list(results["accuracy"])
    print("accuracy of each model (rows) on each task (columns)")
    print(" " * 13 + "".join(f"{name:>14}" for name in names))
    for row in names:
        print(f"{row:13}" + "".join(f"{results['accuracy'][row][c]:14.4f}" for c in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.force) - {task.name for task in TASKS}
    if unknown:
        parser.error(f"unknown tasks: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    if not arguments.measure:
        for task in TASKS:
            target = MODEL_DIR if task.lora is None else ADAPTERS_DIR / task.name
            if task.name in arguments.force or not target.exists():
                (train_base if task.lora is None else train_adapter)(task)
        extend(MODEL_DIR, ADAPTERS_DIR)
    results = measure_all()
    write_json(HERE / "results.json", results)
    write_json(HERE / "tasks.json", tasks_json())
    print_matrix(results)
    worst = min(results["accuracy"][task.name][task.name] for task in TASKS)
    if worst < ACCURACY_MIN:
        raise SystemExit(f"an adapter answers only {worst:.4f} of its own table")


if __name__ == "__main__":
    main()
