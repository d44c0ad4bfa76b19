"""The engine that owns the weights: DeepSpeed behind a narrow interface."""
