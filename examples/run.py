"""Fine-tune on your own file with the dataflow in your hands: `python examples/run.py my-file.json`.

The same call works with a plain Hamilton driver:
`driver.Builder().with_modules(*seqtune.modules()).with_config({"start": "base"}).build()`.
"""

import pprint
import sys

import seqtune


def main(data_path: str, model_id: str = "seqtune-mini") -> None:
    """Tune `model_id` on the file, and print what came of it."""
    dr = seqtune.build_driver({"start": "base"})
    result = dr.execute(
        [  # any outputs, in any order
            "save_best_models",
            "hold_out_set_predictions",
            "training_and_validation_set_metrics",
            "finetuned_model_on_validation_set",
            "verdict",
        ],
        inputs={
            "data_path": data_path,  # a list of JSON objects, or any other file that seqtune reads
            "input_text_key": "question",  # the key of the input text in each object
            "output_text_key": "reply",  # the key of the text that the model is to answer
            "model_id": model_id,  # embedded; a hub id such as google/flan-t5-small needs a network once
        },
    )
    pprint.pp(result["save_best_models"])
    pprint.pp(result["training_and_validation_set_metrics"]["validation"])
    pprint.pp(result["hold_out_set_predictions"][:3])
    print(result["verdict"]["sentence"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} FILE [MODEL]")
    main(*sys.argv[1:])
