from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqtune import generation
from seqtune.data import tokens
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
    ("longest", "given", "expected"), [(40, None, 50), (3, None, 4), (1000, None, 512), (1000, 7, 7)]
)
def test_the_token_limit_is_derived(longest: int, given: int | None, expected: int):
    decided = generation.with_token_limit({"target": {"max": longest}}, {"max_new_tokens": given})
    assert decided["max_new_tokens"] == expected
    assert decided["max_new_tokens_reason"] == ("given" if given else decided["max_new_tokens_reason"])
    assert given or str(longest) in decided["max_new_tokens_reason"]


def test_the_template_takes_no_other_braces_for_its_own():
    texts = ["awk '{print $1}'", "{question}"]
    assert tokens.apply_template("do: {question} {x}", texts) == ["do: awk '{print $1}' {x}", "do: {question} {x}"]
