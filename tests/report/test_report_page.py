"""What the page says: the verdict, every metric, where it comes from; and what it leaves out."""

from __future__ import annotations

import html as html_module
import json
import re
from typing import Any

import pytest
import report_runs
from markupsafe import escape
from report_runs import manifest, rendered, rows

from seqtune.report import answers, curves, groups, origins, page, scores, sections
from seqtune.settings import knobs


def text_of(html: str) -> str:
    """What a reader sees of the HTML itself."""
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html_module.unescape(re.sub(r"<[^>]+>", " ", body)))


def data_of(html: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="content">(.*?)</script>', html, re.DOTALL)[1])


def test_everything_that_is_known_is_said():
    said = text_of(rendered())
    for field in (
        "better", "verdict", "model", "warning", "own metric", "rail", "path", "found", "mend", "example", "character",
        "before", "after", "reason", "own setting's value", "library", "signature", "change", "run", "language", "ja",
    ):  # fmt: skip
        assert field in said, field
    for figures in ("20.00 60.00 +40.00 +30.00 to +50.00", "9,000 (120 a second)", "40, 2.00 epochs", "step 10"):
        assert figures in said, figures
    assert "Cut off: training 1 rows (7 tokens)" in said


def test_one_file_below_six_megabytes_that_names_no_address():
    html = rendered()
    assert len(html.encode()) < 6e6
    ours = re.sub(r"<script[^>]*>.*?</script>", "", html, flags=re.DOTALL)
    assert "http:" not in ours
    assert "https:" not in ours
    assert " src=" not in ours


@pytest.mark.parametrize("policy", ["none", "sample", "all"])
def test_the_text_of_rows_is_there_where_it_was_asked_for(policy: answers.TextPolicy):
    many = [{**row, "input": f"secret question {row['row']}", "extra": {"who": "secret person"}} for row in rows(300)]
    whole = manifest()
    whole["data"]["findings"][0]["examples"] = ["secret example"]
    html = page.render(whole, report_runs.log(), {"hold_out": many}, text=policy)
    found = data_of(html)["sets"]["hold_out"]
    assert found["rows"] == 300
    assert found["texts"] == {"none": 0, "sample": len(answers.chosen(many, "rougeL")), "all": 300}[policy]
    assert (html.count("secret") > 0) == (policy != "none")
    assert 20 <= len(answers.chosen(many, "rougeL")) <= 100


def test_what_lies_in_the_manifest_of_an_older_run_is_enough():
    whole = manifest()
    for key in ("lifts", "guard_rails", "forgetting", "signatures", "seeds"):
        del whole[key]
    for key in ("findings", "length_histograms", "tokenizer_loss"):
        del whole["data"][key]
    said = text_of(page.render(whole, report_runs.log(), {"hold_out": rows()}))
    assert "20.00 60.00 +40.00 +30.00 to +50.00" in said  # the verdict's own interval
    assert "Guard rails" not in said
    assert "Checks" not in said


def test_a_run_whose_training_is_unknown_has_a_page():
    whole = {**manifest(), "training": None}
    assert "Unknown: the adapter was trained elsewhere." in text_of(page.render(whole, None, {"hold_out": rows()}))


@pytest.mark.parametrize("there", [{}, {"settings": {}}, {"data": None, "verdict": None, "metrics": {}}])
def test_any_part_may_be_missing(there: dict[str, Any]):
    html = page.render(there, None, {})
    assert "not finished" in text_of(html)
    assert data_of(html)["sets"] == {}


def test_of_a_base_in_shares_it_says_the_command_that_goes_on():
    assert "nproc" not in text_of(page.render({}, None, {}))
    shared = text_of(page.render({"settings": {"shard_base": True}}, None, {}))
    assert "torchrun --nproc-per-node N -m seqtune resume RUN goes on" in shared


@pytest.mark.parametrize("key", list(manifest()))
def test_any_key_of_the_manifest_may_be_missing(key: str):
    whole = manifest()
    del whole[key]
    assert "<main>" in page.render(whole, report_runs.log(), {"hold_out": rows()}, text="all")


def test_metrics_of_your_own_stand_behind_ours_without_a_judgement():
    found = scores.table(manifest(), "hold_out")
    assert [row["key"] for row in found][:3] == ["rougeL", "rouge1", "rouge2"]
    assert found[-1]["name"] == "own metric"
    assert (found[-1]["verdict"], found[-1]["interval"]) == ("", "")


def test_less_of_the_loss_is_better_and_stands_at_the_right():
    (loss,) = [row for row in scores.table(manifest(), "hold_out") if row["key"] == "loss"]
    assert loss["verdict"] == "good"
    loss = {**loss, "low": -3.0, "high": -1.0}
    line = scores.whisker(loss, [loss])
    assert line is not None
    assert 50 < line["low"] < line["gain"] < line["high"] <= 98


def test_an_interval_that_holds_the_zero_is_neither_good_nor_bad():
    whole = manifest()
    whole["lifts"]["hold_out"] = {"rougeL": {"low": -1.0, "high": 5.0}}
    assert scores.table(whole, "hold_out")[0]["verdict"] == ""


def test_a_set_of_the_size_of_a_book_keeps_to_its_room():
    found, room = answers.columns(list(report_runs.real_sized(500)), "all", "rougeL", room=50_000)
    assert found["of"] == found["rows"] == 500
    assert 0 < found["texts"] < 500
    assert 0 <= room < 2_000
    assert found["input"][found["texts"]] is None
    assert found["input"][0] is not None


def test_a_long_text_is_cut_and_says_so():
    row = {**rows(1)[0], "tuned": "x" * 10_000}
    found, _ = answers.columns([row], "all", "rougeL")
    assert found["tuned"][0].endswith("… (6,000 characters more)")


def test_groups_by_field():
    (topic, language) = groups.by_field(rows(12), "rougeL")
    assert topic["name"] == "field"
    assert [line["value"] for line in language["lines"]] == ["de", "ja"]
    assert [line["rows"] for line in language["lines"]] == [6, 6]
    assert language["lines"][0]["cells"][0] == "20.0"
    assert groups.by_field([{**row, "extra": {"id": row["row"]}} for row in rows(12)], "rougeL") == []
    assert groups.by_field(rows(4), "rougeL")[0]["lines"][0]["cells"][3] == "too few rows"


def test_a_long_log_is_drawn_in_few_points():
    found = curves.of_log(report_runs.log(20_000))
    assert found["each"] == 14
    assert len(found["steps"]) == len(found["loss"]) <= curves.MOST_POINTS
    assert found["steps"][-1] == 20_000
    assert found["validation"]["steps"][:2] == [0, 10]
    assert found["speed"][0] == 3000.0


def test_settings_are_given_derived_or_default():
    kinds = {line["name"]: (line["kind"], line["why"]) for g in origins.settings(manifest()) for line in g["lines"]}
    assert kinds["max_source_length"] == ("derived", "reason")
    assert kinds["validation_size"] == ("derived", knobs()["validation_size"].derived)
    assert kinds["learning_rate"][0] == "given"
    ((line,),) = (group["lines"] for group in origins.settings({"settings": {"num_beams": 1}}))
    assert line["kind"] == "default"


def test_the_command_line_is_quoted_for_a_shell():
    said = origins.command(
        {"settings": {"data_path": "my file; rm -rf ~", "lora_r": 4, "use_dora": True, "num_beams": 1}}
    )
    assert said == "seqtune finetune 'my file; rm -rf ~' --lora-r 4 --use-dora"


def test_every_node_leads_to_a_section_of_the_page():
    from seqtune.driver import build_driver

    html = rendered()
    for start in ("base", "presaved"):
        for variable in build_driver({"start": start}).list_available_variables():
            if not variable.is_external_input:
                assert f'id="{sections.of_node(variable.name)}"' in html, variable.name


def test_the_picture_of_the_dataflow_is_in_the_page_and_its_style_in_the_policy():
    from seqtune import picture
    from seqtune.driver import build_driver

    drawn = picture.linked(build_driver({"start": "base"}), sections.of_node)
    html = page.render(manifest(), report_runs.log(), {"hold_out": rows()}, picture=drawn)
    assert '<a href="#training"><g class="node' in html
    assert str(escape("finetuned_model")) in html
    assert html.count("<style>") == 2
