"""Train the byte-level BPE tokenizer of the embedded base model and save it for `AutoTokenizer`.

What it is made for: every text comes back exactly as it was. Bytes are the alphabet, so nothing is ever unknown:
newlines, tabs, runs of spaces, braces and any script survive. Digits are single pieces, so that a number is copied
digit by digit. One blank is put before every text (and taken away again when decoding), so that a word has the same
piece at the start of a text as inside it: a small model then does not have to learn both when it copies.
"""

import argparse
import json
import random
from pathlib import Path

import corpus as corpora
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTINELS = 100
SPECIAL = ["<pad>", "</s>", "<unk>"]  # ids 0, 1, 2


def formatted(rng: random.Random, text: str) -> str:
    """Reshape plain prose into lists, slots, keys and values, quotes and shell-like lines.

    The corpora are prose only. Without this, list markers, doubled braces, pipes and indents would be spelled byte by
    byte in every support text or command line that a user brings.
    """
    words = text.split()
    start = rng.randrange(max(1, len(words) - 24))
    words = [word.strip(".,;:()[]\"'") or "x" for word in words[start : start + 24]]
    words += ["text"] * (12 - len(words))
    low = [word.lower() for word in words]
    name = " ".join(word.capitalize() for word in words[: rng.choice((1, 2, 2, 3))])
    parts = corpora.sentences(text)
    forms = (
        lambda: "\n".join(f"{i + 1}. {part}" for i, part in enumerate(parts[:6])),
        lambda: "\r\n\r\n".join(f"{i + 1}. **{words[i]}**: {part}" for i, part in enumerate(parts[:5])),
        lambda: "\n".join(f"- {part}" for part in parts[:6]),
        lambda: f"{' '.join(words[3:9])} {{{{{name}}}}} {' '.join(words[9:14])} '{name}' {{{{{words[2].title()}}}}}.",
        lambda: f"{name}: {words[3]}\n{words[4]}: {words[5]}\n{words[6]}: {rng.randrange(10**6)}\n",
        lambda: json.dumps({low[0]: words[1], low[2]: [words[3], rng.randrange(1000)], low[4]: True}, indent=2),
        lambda: f'{low[0]} -{low[1][:1]} "{low[2]}" | {low[3]} --{low[4]}={low[5]} > {low[6]}.txt 2>&1; echo ${low[7]}',
        lambda: (
            f"find . -name '*.{low[0][:3]}' -exec {low[1]} {{}} \\; | xargs -I{{}} {low[2]} -{low[3][:2]} /{low[4]}/"
        ),
        lambda: (
            f"def {low[0]}({low[1]}, {low[2]}):\n    return {low[3]}[{low[4]}] + ({low[5]} != {rng.randrange(9)})\n"
        ),
        lambda: f'\t<{low[0]} {low[1]}="{low[2]}">{" ".join(words[3:9])}</{low[0]}>\n',
        lambda: f"www.{low[0]}.com/{low[1]} {low[2]}@{low[3]}.org https://{low[4]}.net/?{low[5]}={rng.randrange(99)}&",
        lambda: f"# {name}\n\n## {words[3]} {words[4]}\n\n* *{low[5]}* `{low[6]}`\n    {low[7]};    {low[8]}\n",
    )
    return rng.choice(forms)()


def sample(train: corpora.Corpus, rng: random.Random, megabytes: int):
    """Yield about `megabytes` of text: prose, all dialogues and trivia questions, and reshaped prose."""
    for share, items in ((0.5, train.wikipedia), (0.2, train.books)):
        budget = megabytes * share * 1e6
        while budget > 0:
            text = rng.choice(items)
            budget -= len(text)
            yield text
            if rng.random() < 0.25:
                form = formatted(rng, text)
                budget -= len(form)
                yield form
    for dialogue in train.dialogues[: int(0.2 * megabytes * 1e6 / 1000)]:
        yield from (text for _, text in dialogue)
    for question, answer in train.trivia:
        yield question
        yield answer


def build(texts, vocab_size: int) -> Tokenizer:
    """Train the BPE and give it the T5 special tokens: pad 0, end 1, unknown 2, the sentinels last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - SENTINELS,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A blank after a sentinel belongs to it, because the text behind it gets the blank of a text start again.
    names = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    tokenizer.add_special_tokens([AddedToken(name, rstrip=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json so that plain AutoTokenizer finds everything it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "padding_side": "right",
        "truncation_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=corpora.DEFAULT_CORPUS)
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--megabytes", type=int, default=60, help="size of the text sample to train on")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train, _ = corpora.load(args.corpus)
    tokenizer = build(sample(train, random.Random(args.seed), args.megabytes), args.vocab_size)
    save(tokenizer, args.out)
    print(f"{tokenizer.get_vocab_size()} pieces written to {args.out}")


if __name__ == "__main__":
    main()
