"""The training batch under its older address; it lives in `pipeline.model.batch`, which the caption engine shares."""

from pipeline.model.batch import Batch, Clips, Pictures, Recordings

__all__ = ["Batch", "Clips", "Pictures", "Recordings"]
