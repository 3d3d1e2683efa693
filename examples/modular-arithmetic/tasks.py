"""The arithmetic tasks: one base task and one adapter per remaining task."""

from dataclasses import dataclass

MODULUS = 31
PROMPT_TEMPLATE = "{a} @ {b} ="


@dataclass(frozen=True)
class Task:
    """One binary operation modulo MODULUS.

    `kind` names the operation for readers in other languages (tasks.json):
      add, subtract, multiply  a + b, a - b, a * b
      polynomial               the sum of c * a^i * b^j over `terms` [c, i, j]
    """

    name: str
    formula: str
    kind: str
    terms: tuple[tuple[int, int, int], ...] = ()
    # Arguments of peft.LoraConfig; None for the base model's own task.
    lora: dict | None = None
    # Optimiser settings of this adapter.
    learning_rate: float = 3e-3
    steps_max: int = 2500
    seed: int = 0

    def answer(self, a: int, b: int) -> int:
        p = MODULUS
        if self.kind == "add":
            return (a + b) % p
        if self.kind == "subtract":
            return (a - b) % p
        if self.kind == "multiply":
            return (a * b) % p
        if self.kind == "polynomial":
            return sum(c * a**i * b**j for c, i, j in self.terms) % p
        raise ValueError(f"unknown task kind {self.kind!r}")

    def table(self) -> list[int]:
        """Answers of the whole table, row-major: entry a * MODULUS + b."""
        return [self.answer(a, b) for a in range(MODULUS) for b in range(MODULUS)]


MLP = ["gate_proj", "up_proj", "down_proj"]

TASKS = [
    Task("add", "a + b", "add", learning_rate=2e-3, seed=1),
    Task(
        "subtract",
        "a - b",
        "subtract",
        lora={"r": 24, "lora_alpha": 48, "target_modules": ["q_proj", "v_proj"]},
        seed=2,
    ),
    Task(
        "multiply",
        "a * b",
        "multiply",
        lora={"r": 16, "lora_alpha": 16, "target_modules": "all-linear", "use_rslora": True},
        seed=3,
    ),
    Task(
        "linear",
        "2a + 3b",
        "polynomial",
        terms=((2, 1, 0), (3, 0, 1)),
        lora={
            "r": 10,
            "lora_alpha": 20,
            "target_modules": ["k_proj", "v_proj", "gate_proj", "down_proj"],
        },
        seed=4,
    ),
    Task(
        "quadratic",
        "a^2 + 2b",
        "polynomial",
        terms=((1, 2, 0), (2, 0, 1)),
        lora={"r": 12, "lora_alpha": 24, "target_modules": MLP},
        seed=5,
    ),
    Task(
        "cubic",
        "a * b^2 + 3",
        "polynomial",
        terms=((1, 1, 2), (3, 0, 0)),
        lora={
            "r": 16,
            "lora_alpha": 32,
            "target_modules": "all-linear",
            "rank_pattern": {"down_proj": 20, "layers.0.self_attn.q_proj": 4},
            "alpha_pattern": {"down_proj": 40, "layers.0.self_attn.q_proj": 8},
        },
        seed=6,
    ),
    Task(
        "product-plus",
        "a * b + a + 1",
        "polynomial",
        terms=((1, 1, 1), (1, 1, 0), (1, 0, 0)),
        lora={
            "r": 20,
            "lora_alpha": 20,
            "target_modules": r".*\.(v_proj|o_proj|up_proj|down_proj)",
            "use_rslora": True,
        },
        seed=7,
    ),
]
