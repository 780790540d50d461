"""A node of your own behind the last: the tuned model for another runtime, made of the run that was just delivered."""

from typing import Any

from seqtune import export


def exported_model(
    save_best_models: dict[str, Any], export_to: str = "merged", export_path: str = "exported"
) -> dict[str, Any]:
    """Hangs on the finished run, under either start; what it returns is the export's manifest."""
    return export.write(save_best_models["path"], export_to, export_path)
