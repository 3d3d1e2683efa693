"""Writes peft-match-goldens.json: what PEFT itself adapts for many configs, and what Python's re
matches for many patterns. Needs torch, transformers and peft; run it from anywhere:

    python test/unit/adapters/make_match_goldens.py

Every config goes through PEFT's own file reading, matching and injection on a tiny model.
"""

import copy
import dataclasses
import json
import logging
import random
import re
import tempfile
import warnings
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

SEED = 20_26
OUTPUT = Path(__file__).with_name("peft-match-goldens.json")
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

SHAPE = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    vocab_size=32,
)


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


MODELS = {"llama": build(LlamaConfig(**SHAPE)), "qwen3": build(Qwen3Config(**SHAPE))}

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = PROJECTIONS[:4]


def full_path(layer, name):
    return f"model.layers.{layer}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"


ALL_PATHS = [full_path(layer, name) for layer in range(3) for name in PROJECTIONS]

TARGET_REGEXES = [
    "all-linear",
    "ALL-Linear",
    "q_proj",
    ".*q_proj",
    r".*\.(q_proj|v_proj)",
    r"model\.layers\.\d+\.self_attn\.[qkvo]_proj",
    r"model\.layers\.[02]\.mlp\.(gate|up|down)_proj",
    r".*\.(0|2)\.(self_attn|mlp)\.\w+_proj",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:q_proj|down_proj)))",
    r"^model.*\.o_proj$",
    r"(?i).*Q_PROJ",
    r"(?i:MODEL)\.layers\.1\.mlp\.up_proj",
    r"(?P<head>model)\.layers\.(?P<n>[0-9]+)\.self_attn\.k_proj",
    r".*[^kqvo]_proj",
    r".*(q|k|v|o|gate|up|down)_proj",
    r"model\.layers\.\d{1,2}\.mlp\.down_proj\Z",
    r".*\.mlp\.\w{2,4}_proj",
    r"model\.layers\..*",
    r".*",
    r".*norm",
    r"lm_head",
    r".*(q_proj|lm_head)",
    r"model\.embed_tokens",
    r"nothing_here",
    r"(?!.*mlp).*_proj",
    r".*(?<=q)_proj",
    r"(.)*_proj(?#comment)",
    r".*_pro{1}j",
    r".*_pro{,1}j",
    r"(unbalanced",
    r"*.q_proj",
    r".*(?>q)_proj",
    r"model\.layers\.1\.self_attn\.q_pro++j",
]
PATTERN_KEYS = [
    "q_proj",
    "k_proj",
    "self_attn.q_proj",
    "layers.1.mlp.up_proj",
    "model.layers.0.self_attn.v_proj",
    "^model.layers.2.mlp.down_proj",
    ".*proj",
    ".*_proj",
    "(q|k)_proj",
    "q_proj|v_proj",
    "[qk]_proj",
    r"layers\.[01]\..*",
    r"\w+_proj",
    "proj",
    "attn.q_proj",
    "mlp",
    "1.mlp.gate_proj",
    "q_proj)|(k_proj",
    "model.layers.1.self_attn.o_proj$",
    "q.proj",
    "layers.*.up_proj",
    "other_proj",
]
LAYER_PATTERNS = [
    None,
    [],
    "layers",
    ["layers"],
    ["h", "layers"],
    "h",
    "model.layers",
    "la[xy]ers",
    "h|layers",
    ["layers", "model"],
    "(?:lay|x)ers",
    "",
]


def random_targets(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.sample(PROJECTIONS, rng.randint(1, 7))
    if kind == 1:
        return rng.sample(ALL_PATHS, rng.randint(1, 6))
    if kind == 2:
        return [f"self_attn.{n}" for n in rng.sample(ATTENTION, 2)] + rng.sample(PROJECTIONS, 1)
    if kind == 3:
        layer = rng.randrange(3)
        return [f"{layer}.{'self_attn.q_proj'}", f"layers.{layer}.mlp.up_proj"]
    if kind == 4:
        return rng.sample(PROJECTIONS, 2) + rng.sample(ALL_PATHS, 2)
    return rng.sample(ALL_PATHS, rng.randint(18, 21))


def random_config(rng):
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rng.choice([1, 2, 3, 4, 8])}
    config["lora_alpha"] = rng.choice([1, 8, 16, 7, 22.5])
    if rng.random() < 0.3:
        config["use_rslora"] = True
    if rng.random() < 0.35:
        config["target_modules"] = rng.choice(TARGET_REGEXES)
    else:
        config["target_modules"] = random_targets(rng)
        if rng.random() < 0.08:
            extra = ["lm_head", "embed_tokens", "c_attn", "norm", "self_attn", "dense"]
            config["target_modules"] += [rng.choice(extra)]
        if rng.random() < 0.45:
            layers = rng.sample(range(3), rng.randint(1, 3))
            config["layers_to_transform"] = layers if rng.random() < 0.7 else layers[0]
            if rng.random() < 0.05:
                config["layers_to_transform"] = [1, 9]
            if rng.random() < 0.6:
                config["layers_pattern"] = rng.choice(LAYER_PATTERNS)
        elif rng.random() < 0.06:
            config["layers_pattern"] = "layers"
    if rng.random() < 0.3:
        config["exclude_modules"] = rng.choice(
            [
                rng.sample(PROJECTIONS, 1),
                rng.sample(ALL_PATHS, 2),
                ["lm_head", "embed_tokens"],
                r".*\.1\..*",
                r".*(gate|up)_proj",
                r".*\.2",
                ["mlp"],
                [],
                "",
            ]
        )
    if rng.random() < 0.5:
        keys = rng.sample(PATTERN_KEYS, rng.randint(1, 3))
        config["rank_pattern"] = {key: rng.choice([1, 2, 5, 6]) for key in keys}
    if rng.random() < 0.5:
        keys = rng.sample(PATTERN_KEYS, rng.randint(1, 3))
        config["alpha_pattern"] = {key: rng.choice([1, 4, 10, 0.5]) for key in keys}
    return config


def run_peft(model_name, config):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "adapter_config.json").write_text(json.dumps(config))
        try:
            loaded = PeftConfig.from_pretrained(folder)
            model = get_peft_model(copy.deepcopy(MODELS[model_name]), loaded)
        except Exception as error:  # noqa: BLE001 - the outcome is recorded whatever it is
            return {"error": f"{type(error).__name__}: {str(error)[:160]}"}
    modules = {}
    prefix = "base_model.model."
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            modules[path.removeprefix(prefix)] = [
                module.r["default"],
                module.scaling["default"],
            ]
    return {"modules": modules}


UNSUPPORTED_SYNTAX = re.compile(r"\(\?[=!>]|\(\?<[=!]|\+\+")


def strings_of(config):
    for field in ("target_modules", "exclude_modules", "layers_pattern"):
        if isinstance(config.get(field), str):
            yield config[field]
    for field in ("rank_pattern", "alpha_pattern"):
        yield from config.get(field, {})


def expectation(model_name, config, outcome):
    """What this project documents for the config, given what PEFT did."""
    if "error" in outcome:
        return "refused"
    names = [name for name, _ in MODELS[model_name].named_modules()]
    if any(UNSUPPORTED_SYNTAX.search(text) for text in strings_of(config)):
        return "adapter_regex_unsupported"
    targets = config["target_modules"]
    if isinstance(targets, list):
        for target in targets:
            if not any(name == target or name.endswith("." + target) for name in names):
                return "adapter_module_unknown"
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers or []
    if any(layer > 2 for layer in layers):
        return "adapter_module_unknown"
    if any(path in ("lm_head", "model.embed_tokens") for path in outcome["modules"]):
        return "adapter_embedding_unsupported"
    return "equal"


def random_regex(rng, depth=0):
    """A random pattern over the alphabet of module paths."""
    kind = rng.randrange(12 if depth < 3 else 6)
    if kind <= 2:
        return rng.choice(["a", "b", "_", r"\.", ".", r"\w", r"\d", "1", "q_proj", r"\_", r"\x61"])
    if kind == 3:
        items = ["a", "b", "_", "0-9", "a-c", ".", "", "-", r"\d", "[", r"\.", "^"]
        members = "".join(rng.sample(items, 3))
        negation = rng.choice(["", "^"])
        return "[" + negation + ("]" if rng.random() < 0.1 else "") + members + "]"
    if kind == 4:
        return rng.choice(["^", "$", r"\b", r"\B", r"\Z", r"\A"])
    if kind == 5:
        return rng.choice(["a{", "", "b}", "a{,}", "b{1,2", "{}"])
    if kind <= 8:
        return "".join(random_regex(rng, depth + 1) for _ in range(rng.randint(1, 3)))
    if kind == 9:
        branches = "|".join(random_regex(rng, depth + 1) for _ in range(rng.randint(1, 3)))
        return rng.choice(["(", "(?:", "(?i:", "(?-i:"]) + branches + ")"
    counts = ["{2}", "{1,3}", "{,2}", "{2,}", "{0}"]
    quantifier = rng.choice(["*", "+", "?", "*?", "+?", "??", *counts])
    return "(?:" + random_regex(rng, depth + 1) + ")" + quantifier


def random_text(rng):
    pieces = ["a", "b", "ab", ".", "_", "1", "q_proj", "A", "9", "-", "[", "{", "}", "a{"]
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 5)))


def regex_cases(rng, count):
    cases = []
    while len(cases) < count:
        pattern = random_regex(rng)
        if rng.random() < 0.1:
            pattern = "(?i)" + pattern
        texts = [random_text(rng) for _ in range(6)] + ["ab", "a.b", "q_proj"]
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            cases.append({"pattern": pattern, "error": str(error)})
            continue
        cases.append(
            {
                "pattern": pattern,
                "texts": texts,
                "full": [compiled.fullmatch(text) is not None for text in texts],
                "match": [compiled.match(text) is not None for text in texts],
            }
        )
    return cases


def main():
    rng = random.Random(SEED)
    configs = [
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": regex}
        for regex in TARGET_REGEXES
    ]
    for pattern in LAYER_PATTERNS:
        for targets in (["q_proj"], ["model.layers.0.self_attn.q_proj", "up_proj"]):
            configs.append(
                {
                    "peft_type": "LORA",
                    "target_modules": targets,
                    "layers_to_transform": [1],
                    "layers_pattern": pattern,
                }
            )
    for key in PATTERN_KEYS:
        configs.append(
            {
                "peft_type": "LORA",
                "target_modules": "all-linear",
                "rank_pattern": {key: 3},
                "alpha_pattern": {key: 12},
            }
        )
    configs += [random_config(rng) for _ in range(320)]
    cases = []
    for i, config in enumerate(configs):
        model = "qwen3" if i % 3 == 0 else "llama"
        outcome = run_peft(model, config)
        case = {"model": model, "config": config, **outcome}
        case["expect"] = expectation(model, config, outcome)
        cases.append(case)
    golden = {
        "peftVersion": peft.__version__,
        "loraConfigFields": sorted(field.name for field in dataclasses.fields(LoraConfig)),
        "models": {
            name: {
                **{key: SHAPE[key] for key in SHAPE},
                "modules": [path for path, _ in model.named_modules()],
            }
            for name, model in MODELS.items()
        },
        "cases": cases,
        "regexes": regex_cases(rng, 500),
    }
    lines = ["{"]
    items = list(golden.items())
    for i, (key, value) in enumerate(items):
        end = "," if i < len(items) - 1 else ""
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = ",\n".join("  " + json.dumps(entry) for entry in value)
            lines.append(f'"{key}": [\n{body}\n]{end}')
        else:
            lines.append(f'"{key}": {json.dumps(value)}{end}')
    lines.append("}")
    OUTPUT.write_text("\n".join(lines) + "\n")
    counts = {}
    for case in cases:
        counts[case["expect"]] = counts.get(case["expect"], 0) + 1
    print(len(cases), counts)


if __name__ == "__main__":
    main()
