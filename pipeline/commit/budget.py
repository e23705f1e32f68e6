"""How many rejected samples a run bears."""

from dataclasses import dataclass

from pipeline.errors import RequestError

PROBATION = 200
"""Samples before a share means something."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A count or a share; exactly one of them is set."""

    count: int | None
    share: float | None
    """Of all samples, 0..1."""

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """`5%` or `100`. RequestError for anything else."""
        cleaned = text.strip()
        try:
            if cleaned.endswith("%"):
                share = float(cleaned[:-1]) / 100
                if 0 <= share <= 1:
                    return cls(None, share)
            elif int(cleaned) >= 0:
                return cls(int(cleaned), None)
        except ValueError:
            pass
        raise RequestError(f"--max-rejects {text!r} is neither a share such as 5% (0% to 100%) nor a count such as 100")

    def exceeded(self, seen: int, rejected: int, *, final: bool = False) -> bool:
        """True above the budget. A share is judged from the 200th sample on, and at the end."""
        if self.count is not None:
            return rejected > self.count
        return self.share is not None and (final or seen >= PROBATION) and rejected > self.share * seen
