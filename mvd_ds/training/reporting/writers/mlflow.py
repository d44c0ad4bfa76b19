"""Metrics for MLflow. Server and experiment are those of its own environment variables."""

from __future__ import annotations

import io
from typing import Any

from mvd_ds.files import write_text
from mvd_ds.training.reporting.writers.writer import WrittenRun

#: Characters of a parameter's value that MLflow keeps.
VALUE_CHARACTERS = 500


class MlFlow:
    """A writer of one MLflow run, which a resume continues.

    Steps that are done again stand twice in its history: MLflow takes no point back.
    """

    def __init__(self, run: WrittenRun) -> None:
        """Begin the run, or continue the one whose id is kept in the folder."""
        import mlflow

        self.mlflow = mlflow
        kept = run.folder / "control" / "mlflow_run"
        self.is_new = not (run.first_step and kept.exists())
        begun = mlflow.start_run(
            run_id=None if self.is_new else kept.read_text(encoding="utf-8").strip(), run_name=run.folder.name
        )
        kept.parent.mkdir(exist_ok=True)
        write_text(kept, begun.info.run_id + "\n")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self.mlflow.log_metrics(values, step=step)

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool) -> None:
        """Log the settings as parameters, which MLflow lets nobody change after a resume."""
        if self.is_new:
            self.mlflow.log_params({name: str(value)[:VALUE_CHARACTERS] for name, value in settings.items()})

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Log images; MLflow has no histograms."""
        from PIL import Image

        for name, content in images.items():
            self.mlflow.log_image(Image.open(io.BytesIO(content)), artifact_file=f"{name}/step-{step:08d}.png")

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Do nothing: MLflow has no histograms."""

    def close(self) -> None:
        """End the run."""
        self.mlflow.end_run()
