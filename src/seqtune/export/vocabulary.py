"""A tokenizer in a GGUF file: its pieces and how texts are cut, for the kinds that llama.cpp has.

| tokenizer | in llama.cpp |
|---|---|
| Unigram, as T5, FLAN-T5 and mT5 have it | `t5` |
| byte-level BPE of single digits, a blank before each text (seqtune-mini) | `gpt2`, cut as SmolLM's; no blank |

Whether llama.cpp then gives the same ids is seen by asking it (`gguf`), on rows of the run and on `PROBES`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from transformers import PreTrainedTokenizerBase

#: Texts on which tokenizers differ: blanks, digits, marks, scripts, what is normalized. Not covered: special tokens in
#: a text, which are cut out of it, and a text that is empty.
PROBES = (
    "How 5 is 123? It's 1,000.50 or ½, ²3, Ⅳ.",
    "  two  blanks  before, between and behind  ",
    "lines\n\nand\ttabs\r\nand - lists\n  1. of two",
    "DON'T we'll they've `code` {{Name}} __init__ snake_case -flag --long=x | grep '$HOME' > a.txt; 2>&1",
    "Ünïcode – „Größe“ … é e\u0301 ﬁn ﬀ ａｂｃ １２３ ㎏ ™",
    "no\u00a0break, zero\u200bwidth, ideographic\u3000blank",
    "密码在哪里？ パスワードは？ 비밀번호 पासवर्ड كلمة السر รหัสผ่าน пароль κωδικός",
    "😀 🤷🏽‍♀️ 𝔘 𐍈 \u2603",
    "x",
)

#: `gguf.TokenType`, which is not imported for the names of five numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def add(writer: Any, tokenizer: PreTrainedTokenizerBase, size: int) -> bool:
    """Put the tokenizer into the file.

    Args:
        writer: a ``gguf.GGUFWriter``.
        size: how many tokens the model has.

    Returns:
        Whether llama.cpp has a tokenizer of its kind. If not, the file takes token ids alone.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(fast.to_str()) if fast else {}
    kind = state.get("model", {}).get("type")
    if kind == "Unigram":
        _add_unigram(writer, state, size)
    elif kind == "BPE" and _is_like_smollm(state):
        _add_bpe(writer, state, size)
    else:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(size)
        return False
    empty = tokenizer("")["input_ids"]
    writer.add_add_bos_token(empty[:1] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(empty[-1:] == [tokenizer.eos_token_id])
    for name in ("bos", "eos", "pad", "unk"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    return True


def _add_unigram(writer: Any, state: dict[str, Any], size: int) -> None:
    model = state["model"]
    pieces = {number: piece for number, (piece, _) in enumerate(model["vocab"])}
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    types = _add_pieces(writer, state, pieces, size)
    if model.get("byte_fallback"):
        types = [BYTE if _is_byte(pieces.get(number, "")) else each for number, each in enumerate(types)]
    types[model["unk_id"]] = UNKNOWN
    writer.add_token_types(types)
    scores = [score for _, score in model["vocab"]]
    writer.add_token_scores(scores[:size] + [-10000.0] * (size - len(scores)))
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    for step in _steps(state["normalizer"], "normalizers"):
        if step["type"] == "Precompiled" and step["precompiled_charsmap"]:
            writer.add_precompiled_charsmap(base64.b64decode(step["precompiled_charsmap"]))


def _add_bpe(writer: Any, state: dict[str, Any], size: int) -> None:
    model = state["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_types(_add_pieces(writer, state, {n: piece for piece, n in model["vocab"].items()}, size))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_add_space_prefix(False)
    writer.add_string("seqtune.before_text", " ")


def _is_like_smollm(state: dict[str, Any]) -> bool:
    digits, *others = _steps(state["pre_tokenizer"], "pretokenizers")
    return (
        state["normalizer"] == {"type": "Prepend", "prepend": " "}
        and (digits["type"], digits.get("individual_digits")) == ("Digits", True)
        and [(each["type"], each.get("add_prefix_space"), each.get("use_regex")) for each in others]
        == [("ByteLevel", False, True)]
    )


def _add_pieces(writer: Any, state: dict[str, Any], pieces: dict[int, str], size: int) -> list[int]:
    """Write the texts of all tokens; their types, of which those that are left over are unused."""
    names = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    for number, piece in pieces.items():
        names[number], types[number] = piece, NORMAL
    for token in state["added_tokens"]:
        names[token["id"]], types[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    writer.add_token_list(names)
    return types


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be a sequence of them."""
    if part is None:
        return [{"type": "none"}]
    return part.get(name) or [part]
