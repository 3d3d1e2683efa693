"""vLLM's CPU build as a peer process (peer_loop.py).

Token ids are given and no text is made. Its engine runs in this process, and each step is timed.
"""

import time

from peer_loop import serve, token_at


class Peer:
    def load(self, model, loras, threads, sequences, length, batch):
        import torch
        from vllm import LLM, SamplingParams, __version__
        from vllm.lora.request import LoRARequest

        torch.set_num_threads(threads)
        lora = {}
        if loras:
            lora = dict(enable_lora=True, max_loras=len(loras), max_lora_rank=16)
        self.sampling = SamplingParams
        self.llm = LLM(
            model=model,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=length,
            max_num_seqs=sequences,
            max_num_batched_tokens=max(batch, length),
            enable_prefix_caching=False,
            **lora,
        )
        self.loras = [LoRARequest(f"a{i}", i + 1, p) for i, p in enumerate(loras)]
        self.count = 0
        return {"version": __version__, "threads": torch.get_num_threads()}

    def run(self, rows, prompt, tokens, adapters):
        """Milliseconds of each engine step and how many tokens it gave."""
        engine = self.llm.llm_engine
        params = self.sampling(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        for row in range(rows):
            lora = None
            if adapters != "none":
                lora = self.loras[row if adapters == "distinct" else 0]
            self.count += 1
            prompt_ids = {"prompt_token_ids": [token_at(row, i) for i in range(prompt)]}
            engine.add_request(str(self.count), prompt_ids, params, lora_request=lora)
        steps = []
        seen = {}
        while engine.has_unfinished_requests():
            start = time.perf_counter()
            outputs = engine.step()
            ms = (time.perf_counter() - start) * 1e3
            new = 0
            for output in outputs:
                length = len(output.outputs[0].token_ids)
                new += length - seen.get(output.request_id, 0)
                seen[output.request_id] = length
            steps.append((ms, new))
        return steps

    def prefill(self, tokens):
        return {"ms": sum(ms for ms, _ in self.run(1, tokens, 1, "none"))}

    def decode(self, rows, prompt, steps, adapters):
        timed = self.run(rows, prompt, steps + 1, adapters)
        # Steps that gave every row a token, but the first, which ends the prompts.
        whole = [ms for ms, new in timed if new == rows]
        return {"stepMs": whole[1:]}


if __name__ == "__main__":
    serve(Peer())
