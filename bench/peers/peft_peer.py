"""PEFT's mixed batches on torch as a peer process (peer_loop.py)."""

import time

from peer_loop import serve, token_at

BASE = "__base__"


class Peer:
    def load(self, model, loras, threads, dtype, **_):
        import peft
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.mixed = len(loras) > 0
        if self.mixed:
            base = peft.PeftModel.from_pretrained(base, loras[0], adapter_name="a0")
            for i, path in enumerate(loras[1:], 1):
                base.load_adapter(path, adapter_name=f"a{i}")
        self.model = base.eval()
        return {"version": f"peft {peft.__version__}, torch {torch.__version__}"}

    def forward(self, ids, cache, names):
        extra = {"adapter_names": names} if self.mixed else {}
        start = time.perf_counter()
        with self.torch.inference_mode():
            out = self.model(
                input_ids=self.torch.tensor(ids),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **extra,
            )
        return (time.perf_counter() - start) * 1e3, out.past_key_values

    def prefill(self, tokens):
        ms, _ = self.forward([[token_at(0, i) for i in range(tokens)]], None, [BASE])
        return {"ms": ms}

    def decode(self, rows, prompt, steps, adapters):
        names = {
            "none": [BASE] * rows,
            "one": ["a0"] * rows,
            "distinct": [f"a{row}" for row in range(rows)],
        }[adapters]
        ids = [[token_at(row, i) for i in range(prompt)] for row in range(rows)]
        _, cache = self.forward(ids, None, names)
        timed = []
        for step in range(steps):
            ids = [[token_at(row, prompt + step)] for row in range(rows)]
            ms, cache = self.forward(ids, cache, names)
            timed.append(ms)
        return {"stepMs": timed}


if __name__ == "__main__":
    serve(Peer())
