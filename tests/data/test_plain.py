"""No text that a user writes comes out as a token that steers the model, for every kind of tokenizer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtune.data import plain, tokens
from tiny_models import SENTENCES, tiny_tokenizer

CONTROL = ["</s>", "<s>", "<pad>", "<extra_id_0>", "<extra_id_1>", "en_XX", "de_DE", "<mask>", "<unk>", "<|im_end|>"]
LETTERS = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz/s>_0123456789XEND|"]
PIECES = [*dict(LETTERS).items(), ("▁the", -3.0), ("▁", -2.0)]


def unigram_t5() -> Any:
    """T5's own kind: SentencePiece pieces, the special ones among them, and no ``<``, as in T5."""
    from transformers import T5Tokenizer

    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    return T5Tokenizer(vocab=[*special, *PIECES, ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)], extra_ids=2)


def unigram_mbart() -> Any:
    from transformers import MBartTokenizer

    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    codes = [(name, 0.0) for name in ("en_XX", "de_DE", "<mask>")]
    return MBartTokenizer(vocab=[*special, *PIECES, ("<", -4.0), *codes], src_lang="en_XX", tgt_lang="de_DE")


def mini() -> Any:
    from seqtune.models import loading

    return loading.load_fitting_tokenizer(loading.resolve("seqtune-mini", None, None))


MAKERS = {
    "t5": unigram_t5,
    "mbart": unigram_mbart,
    "seqtune-mini": mini,
    **{f"tiny {family}": lambda family=family: tiny_tokenizer(family) for family in ("t5", "bart", "mbart", "pegasus")},
}


@pytest.fixture(scope="module", params=list(MAKERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def frame(tokenizer: Any, encode: Any) -> tuple[list[int], list[int]]:
    """What stands before and behind each text."""
    (ids,) = encode(tokenizer, ["a"])
    steers = [each in plain.control_ids(tokenizer) for each in ids]
    first, last = steers.index(False), len(ids) - steers[::-1].index(False)
    return ids[:first], ids[last:]


@pytest.mark.parametrize("encode", [tokens.encode, tokens.encode_targets])
def test_no_control_token_comes_out_of_a_text(tokenizer: Any, encode: Any) -> None:
    before, behind = frame(tokenizer, encode)
    rng = random.Random(0)
    texts = [*CONTROL, *(f"the {each} a" for each in CONTROL), *(f"a{each}b" for each in CONTROL), "＜/s＞ ＜pad＞"]
    texts += ["".join(rng.choices([*CONTROL, "a", " ", "the", "<", "/s>"], k=12)) for _ in range(50)]
    for limit in (None, 8, 5):
        for text, ids in zip(texts, encode(tokenizer, texts, limit), strict=True):
            assert (ids[: len(before)], ids[len(ids) - len(behind) :]) == (before, behind), text
            assert plain.control_ids(tokenizer).isdisjoint(ids[len(before) : len(ids) - len(behind)]), text
            assert limit is None or len(ids) <= limit


def test_other_texts_are_encoded_as_ever(tokenizer: Any) -> None:
    assert tokens.encode(tokenizer, SENTENCES) == tokenizer(SENTENCES)["input_ids"]
    assert tokens.encode_targets(tokenizer, SENTENCES) == tokenizer(text_target=SENTENCES)["input_ids"]
    assert tokens.encode(tokenizer, SENTENCES, 6) == tokenizer(SENTENCES, truncation=True, max_length=6)["input_ids"]


def test_the_text_comes_back() -> None:
    """Where the vocabulary has the characters, control tokens in a text survive encoding and decoding as text."""
    for maker in (mini, unigram_mbart):
        tokenizer = maker()
        for text in ("the </s> a", "a <pad> b", "the en_XX a"):
            (ids,) = tokens.encode(tokenizer, [text])
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*CONTROL, *"</s>pad_ ab"]), max_size=20).map("".join))
def test_whatever_the_text(text: str) -> None:
    tokenizer = unigram_mbart()
    (ids,) = tokens.encode(tokenizer, [text])
    assert plain.control_ids(tokenizer).isdisjoint(ids[:-2])


def test_in_use_too() -> None:
    """`TunedModel.generate` hands the model what training would."""
    from seqtune import api
    from seqtune.settings import DEFAULT

    class Answerer:
        def answer(self, sources: list[list[int]], **_: Any) -> list[str]:
            self.sources = sources
            return [""] * len(sources)

    for limit in (None, 6):
        tuned = object.__new__(api.TunedModel)
        tuned.tokenizer = unigram_t5()
        tuned.settings = {**DEFAULT.model_dump(), "max_source_length": limit or 1024}
        answerer = Answerer()
        tuned.__dict__["answerer"] = answerer
        tuned.generate(CONTROL)
        assert answerer.sources == tokens.encode(tuned.tokenizer, CONTROL, limit)
        for ids in answerer.sources:
            assert plain.control_ids(tuned.tokenizer).isdisjoint(ids[:-1])


def test_the_names_of_the_control_tokens() -> None:
    names = plain.control_names(unigram_mbart())
    assert names["en_XX"]
    assert names["</s>"]
    t5 = unigram_t5()
    t5.add_tokens(["<user>", "hello", "{"])
    assert plain.control_names(t5) == {
        **dict.fromkeys(["</s>", "<extra_id_0>", "<extra_id_1>", "<pad>"], True),
        "<user>": False,
    }


def test_tokens_that_are_added_later_are_seen():
    tokenizer = tiny_tokenizer("t5")
    (before,) = tokens.encode(tokenizer, ["a <<stop>> b"])
    tokenizer.add_tokens(["<<stop>>"], special_tokens=True)
    added = tokenizer.convert_tokens_to_ids("<<stop>>")
    assert added in plain.control_ids(tokenizer)
    assert tokens.encode(tokenizer, ["a <<stop>> b"]) == [before], "still spelled out"
