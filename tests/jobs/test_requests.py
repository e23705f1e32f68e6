"""A wrong request is one line that says what, where and what to do, exit code 2, and nothing is started."""

from pathlib import Path

import pytest

from jobs.cli import app, main
from pipeline.storage import Folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    return lines[0]


PREPARE = ("prepare", "a.tar", "-o", "out")
CAPTION = ("caption", "a.tar", "-o", "out", "--engine", "facts")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("caption", "b/*.tar", "-o", "out", "--engine", "facts"), "no shard matches b/*.tar"),
        (("caption", "a.tar", "-o", "out", "--engine", "fatcs"), "did you mean facts"),
        (("caption", "a.tar", "-o", "out", "--engine", "transformers", "--model", "./nowhere"), "no such folder"),
        ((*CAPTION, "--max-rejects", "many"), "neither a share"),
        ((*CAPTION, "--max-sample-bytes", "huge"), "no size"),
        ((*CAPTION, "--limit", "-1"), "cannot be negative"),
        ((*CAPTION, "--beems", "2"), "Did you mean --beams"),
        (("caption", "a.tar", "--engine", "facts"), "--output"),
        ((*PREPARE, "--min-chars", "10", "--max-chars", "5"), "--min-chars 10 is above --max-chars 5"),
        ((*PREPARE, "--min-text-tokens", "3"), "name a --tokenizer"),
        ((*PREPARE, "--tokenizer", "a.tar"), "is no tokenizer.json"),
        ((*PREPARE, "--tokenizer", "./nowhere"), "no such file or folder"),
        ((*PREPARE, "--frames.n-frames", "0"), "n_frames 0"),
        ((*PREPARE, "--frames.rate-hz", "0"), "rate_hz 0"),
        ((*PREPARE, "--picture.quality", "101"), "quality 101"),
        ((*PREPARE, "--drop", "empty"), "empty"),
        (("chek", "a.tar"), "Did you mean"),
        ((*CAPTION, "--config", "missing.yaml"), "missing.yaml"),
        (("replay", "empty"), "holds no run"),
        (("check", "@missing.txt"), "list file missing.txt"),
    ],
)
def test_it_says_what_is_wrong_and_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused(capsys, *arguments)


def test_an_unknown_key_of_a_configuration_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "job.yaml").write_text("shards: [a.tar]\noutptu: out\nengine: facts\n")
    line = refused(capsys, "caption", "--config", "job.yaml")
    assert line.endswith("job.yaml, line 2: unknown key outptu; did you mean output?")


def test_a_configuration_that_is_no_mapping_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[1, 2", "just words", "- a\n- b"):
        (here / "job.yaml").write_text(text)
        assert "job.yaml" in refused(capsys, "caption", "--config", "job.yaml")


def test_an_output_that_cannot_be_written_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("in the way")
    assert "cannot write to --output" in refused(capsys, "caption", "a.tar", "-o", "file/out", "--engine", "facts")


def test_an_output_of_another_recipe_is_refused_with_the_field(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Folder(str(here / "out")).put("recipe.json", b'{"root": "%s", "engine": "other"}' % str(here).encode())
    assert "engine" in refused(capsys, *CAPTION)


def test_an_option_of_several_values_takes_them_all_and_no_archive_is_made_of_them() -> None:
    arguments = [
        "prepare",
        "a.tar",
        "b.tar",
        "--take",
        "image",
        "text",
        "--bucket-tokens",
        "16",
        "32",
        "--scripts",
        "Latin",
        "Han",
        "-o",
        "out",
    ]
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    config = bound.arguments["config"]
    assert config.shards == ("a.tar", "b.tar") and config.chain.take == ("image", "text")
    assert config.chain.tokens.bucket_tokens == (16, 32) and config.chain.filters.scripts == ("Latin", "Han")
