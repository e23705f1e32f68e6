"""What identifies a sample: its members' names and bytes, in any order, and nothing else; anyone can compute it again."""

import hashlib
from dataclasses import dataclass

import pytest

from pipeline.samples.hashes import hashes_of


@dataclass
class Part:
    name: str
    data: bytes | None

    @property
    def size(self) -> int:
        return len(self.data or b"")


def sample(**members: bytes) -> str:
    return hashes_of([Part(name.replace("_", "."), data) for name, data in members.items()]).sample


def test_the_formula_is_that_of_sha256sum_of_the_members() -> None:
    jpg, txt = hashlib.sha256(b"picture"), hashlib.sha256("naïve".encode())
    found = hashes_of([Part("txt", "naïve".encode()), Part("jpg", b"picture")])
    assert found.sample == hashlib.sha256(b"jpg\0" + jpg.digest() + b"txt\0" + txt.digest()).hexdigest()
    assert found.members == {"jpg": jpg.hexdigest(), "txt": txt.hexdigest()}


def test_it_follows_names_and_bytes_and_not_the_order() -> None:
    assert sample(jpg=b"a", txt=b"b") == sample(txt=b"b", jpg=b"a")
    others = [sample(jpg=b"b", txt=b"a"), sample(jpg=b"ab", txt=b""), sample(jpg=b"a"), sample(a_jpg=b"a", txt=b"b"), sample()]
    assert len({sample(jpg=b"a", txt=b"b"), *others}) == 6


def test_bytes_that_were_not_read_are_no_empty_ones() -> None:
    with pytest.raises(ValueError, match=r"field jpg were not read"):
        hashes_of([Part("jpg", None)])
