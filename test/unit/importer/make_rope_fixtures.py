"""Writes rope.json: inverse frequencies as Hugging Face transformers computes them on CPU.

Usage: python make_rope_fixtures.py && npx biome check --write rope.json
Needs torch and transformers; their versions are recorded in the file.
"""

import copy
import json
import pathlib

import torch
import transformers
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

FAMILIES = {
    "llama": (LlamaConfig, LlamaRotaryEmbedding, "LlamaForCausalLM"),
    "mistral": (MistralConfig, MistralRotaryEmbedding, "MistralForCausalLM"),
    "qwen2": (Qwen2Config, Qwen2RotaryEmbedding, "Qwen2ForCausalLM"),
    "qwen3": (Qwen3Config, Qwen3RotaryEmbedding, "Qwen3ForCausalLM"),
}

LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}

CASES = {
    "default, theta absent": ("llama", 64, {}),
    "default, top-level theta": ("llama", 64, {"rope_theta": 10000.0}),
    "default, theta 1e6": ("qwen2", 64, {"rope_theta": 1000000.0}),
    "default, theta inside, transformers 5": (
        "qwen3",
        128,
        {"rope_parameters": {"rope_theta": 5000000, "rope_type": "default"}},
    ),
    "default, rope_scaling null": ("mistral", 128, {"rope_theta": 10000.0, "rope_scaling": None}),
    "default, odd half": ("llama", 26, {"rope_theta": 12345.678}),
    "linear, old names": (
        "llama",
        80,
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
    ),
    "linear, transformers 5": (
        "llama",
        128,
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}},
    ),
    "dynamic, old names": ("llama", 128, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "dynamic, transformers 5": (
        "llama",
        64,
        {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 20000.0}},
    ),
    "llama3, Llama 3.2": ("llama", 64, {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    "llama3, Llama 3.1": (
        "llama",
        128,
        {"rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 8.0}},
    ),
    "llama3, transformers 5": (
        "llama",
        128,
        {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    ),
    "llama3, short context": (
        "llama",
        16,
        {
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama3, top-level original length rules": (
        "llama",
        64,
        {
            "rope_theta": 500000.0,
            "original_max_position_embeddings": 4096,
            "rope_scaling": LLAMA3,
        },
    ),
}


def main() -> None:
    cases = []
    for name, (family, head_dim, extra) in CASES.items():
        config_class, rope_class, architecture = FAMILIES[family]
        config = {
            "model_type": family,
            "architectures": [architecture],
            "hidden_size": 4 * head_dim,
            "head_dim": head_dim,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 16,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            **extra,
        }
        rope = rope_class(config_class(**copy.deepcopy(config)))
        case = {
            "name": name,
            "config": config,
            "invFreq": [float(f) for f in rope.inv_freq],
            "attentionScaling": float(rope.attention_scaling),
        }
        cases.append(case)
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "cases": cases}
    path = pathlib.Path(__file__).with_name("rope.json")
    path.write_text(json.dumps(out, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")


main()
