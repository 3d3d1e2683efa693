"""Prints what lm-evaluation-harness measures over HTTP, in the form of reference.json.

lm_eval_scores.py URL TOKENIZER TASKS [NAME=MODEL ...]
"""

import json
import sys

import lm_eval
from lm_eval.tasks import TaskManager


def measure(url: str, tokenizer: str, manager: TaskManager, name: str, model: str) -> dict:
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": model,
            "base_url": f"{url}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": tokenizer,
            "add_bos_token": True,
            "num_concurrent": 4,
            "max_retries": 1,
        },
        tasks=[f"{name}_choice", f"{name}_generate"],
        task_manager=manager,
        batch_size=31,
    )
    samples = results["samples"]
    return {
        "acc": results["results"][f"{name}_choice"]["acc,none"],
        "exactMatch": results["results"][f"{name}_generate"]["exact_match,none"],
        "logLikelihoods": [
            [float(choice[0]) for choice in sample["filtered_resps"]]
            for sample in samples[f"{name}_choice"]
        ],
        "texts": [sample["filtered_resps"][0] for sample in samples[f"{name}_generate"]],
    }


def main() -> None:
    url, tokenizer, folder, *models = sys.argv[1:]
    manager = TaskManager(include_path=folder, include_defaults=False)
    pairs = [pair.split("=") for pair in models]
    print(json.dumps({n: measure(url, tokenizer, manager, n, model) for n, model in pairs}))


if __name__ == "__main__":
    main()
