"""What the text model attends to: tokens of a sample's media, or the null token where there is none."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a batch; b samples, m tokens, d the width of the text model."""

    states_bmd: torch.Tensor
    """float32 or bfloat16. Token 0 is the null token, a learned vector that stands for an absent medium."""
    mask_bm: torch.Tensor
    """bool: what is there to attend to. The null token is, where nothing else is."""

    def rows(self, rows_k: torch.Tensor) -> "Memory":
        """Of some samples, in the given order."""
        return Memory(states_bmd=self.states_bmd[rows_k], mask_bm=self.mask_bm[rows_k])

    def absent(self) -> "Memory":
        """The same batch with all media hidden: what defines the text-only probability."""
        mask = torch.zeros_like(self.mask_bm)
        mask[:, 0] = True
        return Memory(states_bmd=self.states_bmd, mask_bm=mask)


def assemble(null_d: torch.Tensor, blocks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], hidden_b: torch.Tensor) -> Memory:
    """Blocks of (rows n, tokens n x m x d, mask n x m) and which samples' media are hidden -> memory.

    A sample may have tokens in several blocks (a clip and its sound). Rows count samples of the batch, and ascend.
    """
    n_rows = hidden_b.shape[0]
    states, masks = [], []
    for rows_n, tokens_nmd, mask_nm in blocks:
        if rows_n.shape[0] == n_rows:  # rows ascend, so that it is all of them
            states.append(tokens_nmd)
            masks.append(mask_nm)
            continue
        states.append(tokens_nmd.new_zeros(n_rows, *tokens_nmd.shape[1:]).index_copy(0, rows_n, tokens_nmd))
        masks.append(mask_nm.new_zeros(n_rows, mask_nm.shape[1]).index_copy(0, rows_n, mask_nm))
    null = null_d.to(states[0].dtype if states else null_d.dtype).expand(n_rows, 1, -1)
    shown = torch.cat(masks, dim=1) & ~hidden_b[:, None] if masks else hidden_b.new_zeros(n_rows, 0)
    mask_bm = torch.cat([~shown.any(dim=1, keepdim=True), shown], dim=1)
    return Memory(states_bmd=torch.cat([null, *states], dim=1), mask_bm=mask_bm)
