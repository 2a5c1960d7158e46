"""The checkpoint's own tokenizer: Llama 3's byte-level BPE in small, with its special tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel, TemplateProcessing
from tokenizers.processors import Sequence as Processors

from training import samples

VOCABULARY = 1024  # rows of the output layer; <|image|> comes right after, as in the real model
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(2, 23)),
)  # fmt: skip
IMAGE = "<|image|>"
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Rendered training conversations, the special tokens cut out."""
    for _ in range(count):
        text = samples.any_text(rng)
        for name in (*SPECIAL, IMAGE):
            text = text.replace(name, "\n")
        yield text


def train(seed: int = 0, count: int = 6000) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(np.random.default_rng(seed), count), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY - len(SPECIAL):
        raise ValueError(f"the corpus gave {tokenizer.get_vocab_size()} tokens; train on more text")
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (*SPECIAL, IMAGE)]
    )
    bos = SPECIAL[0]
    tokenizer.post_processor = Processors(
        [
            ByteLevel(trim_offsets=False),
            TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and the two small files transformers reads beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
    }
    added = {
        str(tokenizer.token_to_id(name)): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for name in (*SPECIAL, IMAGE)
    }  # fmt: skip
    config = {
        "added_tokens_decoder": added,
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
        "processor_class": "MllamaProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
