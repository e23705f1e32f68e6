"""Records the loss curve that tests/training/test_loop.py compares with: `python -m tests.golden.regenerate_training_loss`.

Run it only when the model, the order of samples or the step changed on purpose, and say so in the commit.
"""

import json
import tempfile
from pathlib import Path

import torch

from tests.training.small import loss_curve

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        curve = [round(loss, 5) for loss in loss_curve(Path(folder))]
    record = {"torch": torch.__version__, "loss": curve}
    Path(__file__).with_name("training_loss.json").write_text(json.dumps(record, indent=1) + "\n")
