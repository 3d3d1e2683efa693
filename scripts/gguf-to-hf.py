"""Writes a GGUF file as a Hugging Face folder that Loramux serves.

    python3 scripts/gguf-to-hf.py model.gguf out-folder [--dtype bfloat16|float32]

Needs transformers, torch and gguf. Quantized tensors are dequantized: the folder holds the values
that llama.cpp computes with, not those of the checkpoint before it was quantized. bfloat16, the
default, rounds them once more, as most checkpoints store them.
"""

import argparse
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args()

    folder, file = str(args.gguf.parent), args.gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # transformers refuses to save what it has loaded from GGUF; the same values in a model of its
    # own class it saves.
    config = loaded.config
    for name in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(name, None)
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.to(getattr(torch, args.dtype)).save_pretrained(args.out)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(args.out)


if __name__ == "__main__":
    main()
