from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqtune import generation
from seqtune.data import tokens
from seqtune.errors import InputError
from seqtune.models import families, loading
from tiny_models import SENTENCES, tiny


@pytest.mark.parametrize("family", ["t5", "flan-t5", "mt5", "bart", "mbart", "pegasus"])
def test_answers_do_not_depend_on_their_company(family: str, tmp_path: Path):
    """Greedy in fp32: the same text as `generate` of transformers, row by row, in any batch."""
    checkpoint = loading.resolve(str(tiny(family, tmp_path / family)))
    tokenizer = loading.load_tokenizer(checkpoint)
    model = loading.load_model(checkpoint, torch.device("cpu"))
    sources = tokens.encode(tokenizer, SENTENCES)
    found = {
        size: generation.answer(model, tokenizer, sources, batch_size=size, random_state=0, max_new_tokens=6)
        for size in (1, 3, 10)
    }
    alone = []
    with torch.inference_mode():
        for source in sources:
            written = model.generate(
                input_ids=torch.tensor([source]), **families.generation_defaults(model, tokenizer), max_new_tokens=6
            )
            alone.append(tokenizer.decode(written[0], skip_special_tokens=True).strip())
    assert found[1] == alone
    assert found[3] == alone
    assert found[10] == alone


def test_answering_leaves_the_generators_alone(tiny_t5: Path):
    checkpoint = loading.resolve(str(tiny_t5))
    model = loading.load_model(checkpoint, torch.device("cpu"))
    tokenizer = loading.load_tokenizer(checkpoint)
    before = torch.random.get_rng_state()
    generation.answer(model, tokenizer, [[5, 1]], batch_size=1, random_state=0, max_new_tokens=4, do_sample=True)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("longest", "limit", "positions", "given", "expected", "reason"),
    [
        (40, 1024, None, None, 50, "has 40 tokens"),
        (3, 1024, None, None, 4, "has 3 tokens"),
        (1000, 1024, None, None, 512, "at most 512"),
        (1000, 1024, None, 7, 7, "given"),
        (300, 128, 128, None, 127, "128 positions"),
        (300, 20, 128, None, 25, "has 20 tokens"),
    ],
)
def test_the_token_limit_is_derived(
    longest: int, limit: int, positions: int | None, given: int | None, expected: int, reason: str
):
    limits = {"target": {"value": limit, "positions": positions}}
    decided = generation.with_token_limit({"target": {"max": longest}}, limits, {"max_new_tokens": given})
    assert decided["max_new_tokens"] == expected
    assert reason in decided["max_new_tokens_reason"]


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(InputError, match="at most 127: the decoder has 128 positions"):
        generation.with_token_limit(
            {"target": {"max": 9}}, {"target": {"value": 9, "positions": 128}}, {"max_new_tokens": 128}
        )


def test_a_mistyped_knob_is_refused(tiny_t5: Path):
    checkpoint = loading.resolve(str(tiny_t5))
    model, tokenizer = loading.load_model(checkpoint, torch.device("cpu")), loading.load_tokenizer(checkpoint)
    with pytest.raises(InputError, match="num_beam   did you mean `num_beams`"):
        generation.answer(model, tokenizer, [[5, 1]], batch_size=1, random_state=0, num_beam=4)


def test_the_template_takes_no_other_braces_for_its_own():
    texts = ["awk '{print $1}'", "{question}"]
    assert tokens.apply_template("do: {question} {x}", texts) == ["do: awk '{print $1}' {x}", "do: {question} {x}"]
