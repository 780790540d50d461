"""Text to token ids with nothing in the text obeyed: a ``</s>`` that a user writes is four characters, not an end.

The tokenizer is told not to look for special tokens (`split_special_tokens`); but a SentencePiece vocabulary has them
among its pieces, where the Unigram model of `tokenizers` finds them all the same (the original never does). So the ids
are looked through, and such a piece is put together of smaller ones.

Not covered: the unknown token. It stands for any character that a vocabulary lacks, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

Found = TypeVar("Found")

#: By tokenizer: its size and special tokens, and what was found when it had these.
_KEPT: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, dict[str, Any]]] = WeakKeyDictionary()

#: What no word is: a token of one character may be one, and so may letters alone.
_MARK = re.compile(r"(?=\S{3})\S*[^\w\s]\S*|\w+_\w+")


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], side: str, max_length: int | None
) -> list[list[int]]:
    """Token ids of each text, with what the tokenizer puts around it.

    Args:
        tokenizer: of the model.
        texts: as the user wrote them.
        side: ``text`` or ``text_target`` (what the decoder is to write: mBART marks it with its language).
        max_length: longer ones are cut to it; None: not cut.
    """

    def call(given: Sequence[str], **more: Any) -> Any:
        return tokenizer(**{side: list(given)}, split_special_tokens=True, verbose=False, **more)

    def around() -> tuple[int, int]:
        mask = list(call(["a"], return_special_tokens_mask=True)["special_tokens_mask"][0])
        before = next((place for place, special in enumerate(mask) if not special), len(mask))
        return before, next((place for place, special in enumerate(reversed(mask)) if not special), 0)

    encoded = call(texts, truncation=max_length is not None, max_length=max_length)["input_ids"]
    control = control_ids(tokenizer)
    before, behind = _kept(tokenizer, side, around)
    rows = []
    for ids in encoded:
        end = len(ids) - behind
        inner = ids[before:end]
        if control.isdisjoint(inner):
            rows.append(list(ids))
            continue
        inner = [
            each for token in inner for each in (_spelled(tokenizer, token, control) if token in control else [token])
        ]
        room = len(inner) if max_length is None else max(0, max_length - before - behind)
        rows.append([*ids[:before], *inner[:room], *ids[end:]])
    return rows


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids by which a model is steered: all special tokens but the unknown one."""

    def found() -> frozenset[int]:
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        unknown: Any = tokenizer.unk_token_id
        return frozenset({*tokenizer.all_special_ids, *special} - {unknown})

    return _kept(tokenizer, "control", found)


def control_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """The tokens of a model that are no words, as they might stand in a text, and whether `encode` spells them out.

    It spells out those by which the model is steered; others that were added to the vocabulary (``<user>``) are the
    wish of whoever added them.
    """
    spelled = {str(tokenizer.convert_ids_to_tokens(each)) for each in control_ids(tokenizer)}
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    names = sorted((spelled | added) - {str(tokenizer.unk_token)})  # which steers nothing, see above
    return {name: name in spelled for name in names if _MARK.fullmatch(name)}


def _kept(tokenizer: PreTrainedTokenizerBase, name: str, find: Callable[[], Found]) -> Found:
    """What `find` finds, once for a tokenizer as it is: looking through all added tokens takes longer than a text."""
    state = (len(tokenizer), tuple(tokenizer.all_special_ids))
    before, found = _KEPT.get(tokenizer, (None, {}))
    if before != state:
        found = {}
        _KEPT[tokenizer] = (state, found)
    if name not in found:
        found[name] = find()
    return found[name]


def _spelled(tokenizer: PreTrainedTokenizerBase, token: int, control: frozenset[int]) -> list[int]:
    """The ids of a control token's name, of pieces that are none; the unknown token where the vocabulary lacks them."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    backend: Any = tokenizer.backend_tokenizer  # only models of the library `tokenizers` find them at all
    parts = [each.id for part in (name[:1], name[1:]) if part for each in backend.model.tokenize(part)]
    unknown: Any = tokenizer.unk_token_id
    return [part if part not in control else unknown for part in parts if part not in control or unknown is not None]
