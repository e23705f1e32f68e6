"""What moves in clips:

- how alike cells are to those around them in the next frame and the one before says where something went, whatever it is;
- frames that only pad, and what lies outside, are alike to nothing.
"""

import torch

from pipeline.model.clips import AROUND, likeness


def moving(thing_d: torch.Tensor, ground_d: torch.Tensor) -> torch.Tensor:
    """1 x 3 x 5 x 5 x d: it goes a cell to the right and a cell up from frame to frame."""
    frames = ground_d.expand(1, 3, 5, 5, -1).clone()
    for time in range(3):
        frames[0, time, 3 - time, 1 + time] = thing_d
    return frames


def test_where_something_went_is_said_whatever_it_is() -> None:
    draw, shown = torch.Generator().manual_seed(0), torch.ones(1, 3, dtype=torch.bool)
    for _ in range(5):
        frames = moving(torch.randn(8, generator=draw), torch.randn(8, generator=draw))
        alike = likeness(frames, shown)[0]
        assert AROUND[int(alike[0, 3, 1, :9].argmax())] == (0, 2)  # in the next frame: a row up, a column to the right
        assert AROUND[int(alike[1, 2, 2, 9:].argmax())] == (2, 0)  # in the one before: a row down, to the left
        assert float(alike.abs().max()) <= 1 + 1e-5


def test_padding_and_what_lies_outside_are_alike_to_nothing() -> None:
    frames = moving(torch.ones(8), torch.arange(8.0))
    alike = likeness(frames, torch.tensor([[True, True, False]]))[0]
    assert float(alike[2].abs().max()) == 0 and float(alike[1, ..., :9].abs().max()) == 0  # of padding, and with it
    assert float(alike[0, ..., 9:].abs().max()) == 0  # nothing is before the first frame
    assert float(alike[0, 0, :, :3].abs().max()) == 0  # nor above the first row
