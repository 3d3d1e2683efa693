"""The demo's vocabulary: what the tasks need, which is trained, and what any text needs besides."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tasks import MODULUS

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
WORDS = ["@", "="] + [str(n) for n in range(MODULUS)]
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>"]
TOOL_TOKENS = ["<tool_call>", "</tool_call>"]

# Ids below this one are trained; the rows of the others are made by extend_vocabulary.py.
LEARNED_TOKENS = len(SPECIAL_TOKENS) + len(WORDS)
POSITIONS_MAX = 4096
CHAT_TEMPLATE = Path(__file__).resolve().parent / "chat_template.jinja"


def byte_token(byte: int) -> str:
    """The character that stands for a byte in byte-level vocabularies (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    others = [b for b in range(256) if b not in printable]
    return chr(256 + others.index(byte))


def vocabulary() -> dict[str, int]:
    """Numbers and signs are words with the space before them; all else is spelled in bytes."""
    space = byte_token(ord(" "))
    tokens = SPECIAL_TOKENS + [space + word for word in WORDS]
    tokens += [byte_token(byte) for byte in range(256)] + CHAT_TOKENS + TOOL_TOKENS
    return {token: i for i, token in enumerate(tokens)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a piece of text is one word of the vocabulary, or bytes."""
    vocab = vocabulary()
    added = SPECIAL_TOKENS + CHAT_TOKENS + TOOL_TOKENS
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    # The space before the first number is put there, so that it is the same token as any other.
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in added[:5]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in TOOL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT_TEMPLATE.read_text(),
        model_max_length=POSITIONS_MAX,
    )
