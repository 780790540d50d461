"""Characters that a tokenizer can't give back, and the pieces that mend it.

T5's tokenizer has no ``{``, makes a space of a line break and one space of several: what it does not know, the model
can neither read nor write. `with_pieces` gives each such character a token of its own. Before all else the tokenizer
replaces the character by a private one (of Unicode's plane 15), which is a token and which nothing else touches; the
decoder puts the character back. In the model each has a row in the embedding and one in the output layer (`make_room`),
and PEFT trains these rows with the adapter (``trainable_token_indices``: one row for both layers).

Not covered: tokenizers of another kind than SentencePiece's. Byte-level ones lose nothing.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune.errors import InputError

#: Stands for a space that would be lost: at an end of the text, or after another space.
SPACE = " "
#: Where the characters are kept beside an adapter.
FILE = "preserved_characters.json"
#: So many characters get a piece, the most frequent first.
MOST = 128
_FIRST = 0xF0000
_KNOWN_BY = "_seqtune_characters"
_LOST_SPACE = r"(?<=\s) |^ | $"


def lost(tokenizer: PreTrainedTokenizerBase, characters: Iterable[str]) -> list[str]:
    """Those of the characters that the tokenizer does not give back when they stand in a text, in order of Unicode.

    A space counts as lost where of two in a row one is.
    """
    probes = {each: f"a{'  ' if each == SPACE else each}a" for each in sorted(set(characters))}
    ids = tokenizer(list(probes.values()), verbose=False)["input_ids"] if probes else []
    back = tokenizer.batch_decode(ids, skip_special_tokens=True) if probes else []
    return [each for (each, probe), text in zip(probes.items(), back, strict=True) if text.strip() != probe]


def with_pieces(tokenizer: PreTrainedTokenizerBase, characters: Sequence[str]) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer that gives these characters back; the tokenizer itself where there are none.

    Raises:
        InputError: it is of a kind that can't be mended so.
    """
    if not characters:
        return tokenizer
    from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers

    mended = copy.deepcopy(tokenizer)
    backend: Any = getattr(mended, "backend_tokenizer", None)
    if backend is None or "Metaspace" not in repr(backend.pre_tokenizer):
        raise InputError(
            f"{type(tokenizer).__name__}: characters can't be added to a tokenizer of this kind",
            mend="Leave out --preserve-characters.",
        )
    private = {each: chr(_FIRST + number) for number, each in enumerate(characters)}
    before = [
        normalizers.Replace(Regex(_LOST_SPACE) if each == SPACE else each, token) for each, token in private.items()
    ]
    kept = [] if backend.normalizer is None else [backend.normalizer]
    # What splitting at spaces did before, so that words need no longer be split there: pieces stand inside of them.
    tidied = [normalizers.Replace(Regex(r" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence([*before, *kept, *tidied])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    back = [decoders.Replace(token, each) for each, token in private.items()]
    backend.decoder = decoders.Sequence([decoders.Metaspace(replacement="▁", prepend_scheme="first"), *back])
    new: Any = [AddedToken(token, normalized=True, special=False) for token in private.values()]
    mended.add_tokens(new)
    setattr(mended, _KNOWN_BY, tuple(characters))
    return mended


def characters_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The characters that `with_pieces` has given pieces of their own."""
    return list(getattr(tokenizer, _KNOWN_BY, ()))


def ids_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the pieces that `with_pieces` has added."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    return sorted(number for content, number in added.items() if len(content) == 1 and ord(content) >= _FIRST)


def make_room(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """The model with a row in the embedding and in the output layer for each of these pieces; others stay as they are.

    A row begins as the mean of the rows there were: an input that means nothing yet, an output that nothing is for.
    Most checkpoints have spare rows (T5's last 28), which are used first. Changes the model, and returns it.
    """
    if not ids:
        return model
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        if max(ids) >= len(layers[0].weight):
            _grow(model, layers, max(ids) + 1)
        for layer in layers:
            layer.weight[list(ids)] = layer.weight[: min(ids)].mean(dim=0)
    model.requires_grad_(False)
    return model


def _grow(model: PreTrainedModel, layers: Sequence[Any], rows: int) -> None:
    """Give these layers, and all that share a weight with them, so many rows.

    (transformers' own ``resize_token_embeddings`` ties the output layer to the embedding where FLAN-T5 has it apart.)
    """
    weights = [each.weight for each in layers]  # held, so that no other object gets one of their ids
    before = len(weights[0])
    grown = {id(weight): nn.Parameter(_longer(weight, rows)) for weight in weights}
    modules: list[Any] = list(model.modules())
    for module in modules:
        if id(getattr(module, "weight", None)) in grown:
            module.weight = grown[id(module.weight)]
            setattr(module, "num_embeddings" if isinstance(module, nn.Embedding) else "out_features", rows)
            beside: Any = getattr(module, "bias", None)
            if beside is not None:
                setattr(module, "bias", nn.Parameter(_longer(beside, rows)))  # noqa: B010
    bias: Any = getattr(model, "final_logits_bias", None)  # BART's and Pegasus'
    if bias is not None:
        model.register_buffer("final_logits_bias", _longer(bias[0], rows)[None])
    for config in (model.config, getattr(model.config, "encoder", None), getattr(model.config, "decoder", None)):
        if getattr(config, "vocab_size", None) == before:
            setattr(config, "vocab_size", rows)  # noqa: B010


def _longer(weight: Any, rows: int) -> torch.Tensor:
    return torch.cat([weight, weight.new_zeros(rows - len(weight), *weight.shape[1:])])


def settled(model: PeftModel) -> PeftModel:
    """The model with the trained rows written into copies of its layers: for answering, which has no time to put them
    in place for every token. Changes the model, and returns it; the base model's weights stay as they are.
    """
    written: dict[int, nn.Parameter] = {}
    wrappers = {name: each for name, each in model.named_modules() if isinstance(each, TrainableTokensWrapper)}
    for name, wrapper in wrappers.items():
        rows: Any = wrapper.token_adapter
        layer = rows.get_base_layer()
        before = id(layer.weight)
        if before not in written:  # tied layers stay tied
            weight = rows.get_merged_weights(rows.active_adapters).detach()
            written[before] = nn.Parameter(weight, requires_grad=False)
        layer.weight = written[before]
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer)
    return model


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write beside an adapter, and the tokenizer saved there, which characters were added; nothing without any."""
    characters = characters_of(tokenizer)
    if not characters:
        return
    (folder / FILE).write_text(json.dumps(characters) + "\n", encoding="utf-8")
    # T5's own class makes itself anew from its vocabulary, without the pieces; the general one reads all of the file.
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def saved(folder: str | Path) -> list[str]:
    """The characters that were added when this adapter was trained; none where there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    try:
        characters = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(characters, list) or not all(isinstance(each, str) and len(each) == 1 for each in characters):
            raise ValueError("expected a list of characters")
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error})", mend="Bring the file back.") from None
    return characters


def name_of(character: str) -> str:
    """A character as a person knows it: ``{``, ``line break``, ``U+200B ZERO WIDTH SPACE``."""
    known = {"\n": "line break", "\t": "tab", "\r": "carriage return", SPACE: "runs of spaces"}
    if character in known:
        return known[character]
    if character.isprintable() and not unicodedata.combining(character) and not character.isspace():
        return character
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
