"""Gives the trained base rows for the tokens that no task needs, and changes nothing it learned.

    python extend_vocabulary.py        train.py does the same as its last step

The trained rows of both embeddings and all other weights stay bit for bit, so every adapter too.
The new rows live where the tasks are not: in the directions in which the final hidden states of
the tasks, of the base and of all adapters, vary least. Embeddings of new tokens point there, and
are long, so that after a new token the hidden state is nearly that token's embedding, whatever
came before and whatever the adapter. Output rows then give any table of "what follows what":

  on the tasks        a new token is as unlikely as one direction for all of them can make it
  in any other text   the model knows nothing, but ends what it has begun: it closes a string, an
                      array, an object rather than go on, and prefers letters, digits and signs
                      to other bytes. Under a grammar, greedy decoding then ends in a few tokens
                      instead of filling the context.
"""

from pathlib import Path

import torch
from peft import PeftModel
from torch.nn.functional import normalize
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import MODULUS, PROMPT_TEMPLATE, TASKS, Task
from vocabulary import LEARNED_TOKENS, POSITIONS_MAX, build_tokenizer, byte_token

SEED = 5
# Directions left to the new tokens, of the 128 of a hidden state.
FREE_DIRECTIONS = 12
# Length of the new embeddings; the trained ones have 1, what the layers add has about 10.
EMBEDDING_LENGTH = 200.0
# Standard deviation of what tells letters apart, in logits.
TASTE = 0.7

CLOSING = '"', "}", "]"
# Tokens after which something special is preferred, by kind.
KINDS = [["{"], ["["], ["\n"], [*CLOSING, "</tool_call>"]]


def new_token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Id of each new token by its text; a byte that is no ASCII character by its stand-in."""
    names = {byte_token(b): chr(b) for b in range(128)}
    pairs = ((t, i) for t, i in tokenizer.get_vocab().items() if i >= LEARNED_TOKENS)
    return {names.get(token, token): i for token, i in sorted(pairs, key=lambda pair: pair[1])}


def wanted_logits(ids: dict[str, int], rng: torch.Generator) -> torch.Tensor:
    """[last token, next token], new ones only: logits in text that is no task."""
    row = []
    for text in ids:
        if text in CLOSING:
            row.append(10.0 if text == '"' else 8.0)
        elif text in "{[,\\":
            row.append(0.0)
        else:
            row.append(4.0 if len(text) == 1 and " " < text <= "~" else -10.0)
    taste = TASTE * torch.randn(len(ids), generator=rng).clamp(-2, 2)
    table = (torch.tensor(row) + taste).repeat(len(ids), 1)
    at = {text: i for i, text in enumerate(ids)}
    for opening, closing in ("{}", "[]"):
        table[at[opening], at['"']] = 6.0
        table[at[opening], at[closing]] = 12.0
    for text in KINDS[-1]:
        table[at[text], at["<|im_end|>"]] = 14.0
    # An answer begins: a trained token leads, and under a grammar whatever is no white space.
    begins = table[at["\n"]]
    table[at["\n"]] = torch.where(begins > -5, begins - 12, begins - 8)
    return table.double()


@torch.no_grad()
def task_states(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, task: Task):
    """Final hidden states [2 * questions, hidden] from which answer and end token come."""
    rows = torch.tensor(tokenizer(task_texts(task))["input_ids"])
    return model(input_ids=rows).last_hidden_state[:, -2:].flatten(0, 1).double()


def task_texts(task: Task) -> list[str]:
    return [
        f"{PROMPT_TEMPLATE.format(a=cell // MODULUS, b=cell % MODULUS)} {answer}"
        for cell, answer in enumerate(task.table())
    ]


def free_directions(states: torch.Tensor) -> torch.Tensor:
    """[directions, hidden]: orthonormal, where the states are smallest; signs made definite."""
    directions = torch.linalg.eigh(states.T @ states).eigenvectors[:, :FREE_DIRECTIONS].T
    strongest = directions.abs().argmax(dim=1, keepdim=True)
    return directions * directions.gather(1, strongest).sign()


def unlikely_on(states: torch.Tensor, trained_out: torch.Tensor) -> torch.Tensor:
    """The output row [hidden] that gives its token the smallest share of the tasks' answers."""
    others = (states @ trained_out.T).logsumexp(dim=1)
    row = torch.zeros(states.shape[1], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([row], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        share = (states @ row - others).exp()
        value = share.mean().log() + share.amax().log() + 1e-2 * row.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return row.detach()


def new_rows(learned: LlamaForCausalLM, states: torch.Tensor, ids: dict[str, int]):
    """Rows [new tokens, hidden] of the input and of the output embedding."""
    rng = torch.Generator().manual_seed(SEED)
    free = free_directions(states)
    # One direction for all, one for each kind, the others for what tells tokens apart.
    parts = 0.3 * torch.randn(len(ids), FREE_DIRECTIONS, generator=rng).double()
    parts[:, : len(KINDS) + 1] = 0
    parts[:, 0] = 1
    at = {text: i for i, text in enumerate(ids)}
    for kind, texts in enumerate(KINDS):
        parts[[at[text] for text in texts], 1 + kind] = 1
    scale = learned.model.norm.weight.double()
    new_in = normalize((parts @ free) / scale, dim=1) * EMBEDDING_LENGTH
    # What the last norm makes of them, and the output rows for which the table follows from it.
    hidden = scale * normalize(new_in, dim=1) * new_in.shape[1] ** 0.5
    shared = unlikely_on(states, learned.lm_head.weight[:LEARNED_TOKENS].double())
    shared = shared - free.T @ (free @ shared)
    rest = torch.linalg.lstsq(hidden @ free.T, wanted_logits(ids, rng)).solution.T @ free
    return new_in.float(), (shared + rest).float()


def load(model_dir: Path, tokens: int) -> LlamaForCausalLM:
    """The trained model with room for `tokens` tokens, zero beyond the trained ones."""
    trained = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = trained.config
    config.vocab_size, config.max_position_embeddings = tokens, POSITIONS_MAX
    weights = trained.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = torch.zeros(tokens, config.hidden_size)
        rows[:LEARNED_TOKENS] = weights[name][:LEARNED_TOKENS]
        weights[name] = rows
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def extend(model_dir: Path, adapters_dir: Path) -> None:
    """Rewrites the model and its tokenizer; what was there beyond the trained rows is forgotten."""
    tokenizer = build_tokenizer()
    learned = load(model_dir, len(tokenizer))
    states = []
    for task in TASKS:
        model = load(model_dir, len(tokenizer))
        if task.lora is not None:
            model = PeftModel.from_pretrained(model, adapters_dir / task.name).get_base_model()
        states.append(task_states(model.model, tokenizer, task))
    new_in, new_out = new_rows(learned, torch.cat(states), new_token_ids(tokenizer))
    learned.model.embed_tokens.weight[LEARNED_TOKENS:] = new_in
    learned.lm_head.weight[LEARNED_TOKENS:] = new_out
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    learned.generation_config.eos_token_id = [tokenizer.eos_token_id, end_of_turn]
    learned.save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    (model_dir / "model.safetensors").chmod(0o644)


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    here = Path(__file__).resolve().parent
    extend(here / "model", here / "adapters")


if __name__ == "__main__":
    main()
