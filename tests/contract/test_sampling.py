"""What every model that searches or draws promises:

- a drawn caption is its seed's: the same in any company, order and batch size, exactly, on the CPU in float32;
- each medium may have a prompt, a seed and a temperature of its own; tokens are distributed as the model says;
- beams and prompts are taken by every model that has them; another attempt is drawn, not searched for again.
"""

from dataclasses import replace

import pytest

from pipeline.captions.engine import create
from pipeline.samples.medium import Ask
from tests.contract.engines import ask, config_of, media_for


def test_sampling_gives_the_same_for_the_same_seed_and_another_for_another(models: dict[str, str]) -> None:
    media = media_for("vit-gpt2")
    first, again, other = (ask(create(config_of("vit-gpt2", models, temperature=1.0, seed=seed)), media) for seed in (1, 1, 2))
    assert first == again
    assert [caption.text for caption in first] != [caption.text for caption in other]


def test_a_prompt_and_beams_are_taken_by_every_picture_model(models: dict[str, str]) -> None:
    for kind in ("vit-gpt2", "blip", "git"):
        captions = ask(create(config_of(kind, models, prompt="w3 w4", beams=2)), media_for(kind))
        assert len(captions) == 4 and all(caption.n_output_tokens for caption in captions)


def test_a_checkpoint_samples_searches_and_takes_a_prompt(models: dict[str, str]) -> None:
    media = media_for("checkpoint")
    for more in ({"beams": 2}, {"prompt": "w3 w4"}):
        assert all(caption.n_output_tokens for caption in ask(create(config_of("checkpoint", models, **more)), media))
    engine = create(config_of("checkpoint", models, temperature=1.0, seed=1))
    turned, straight = ask(engine, media[::-1])[::-1], ask(engine, media)
    assert [(one.text, one.seed) for one in turned] == [(one.text, one.seed) for one in straight]


def test_a_sampled_caption_does_not_depend_on_what_stands_beside_it(models: dict[str, str]) -> None:
    engine, media = create(config_of("vit-gpt2", models, temperature=1.0, seed=1)), media_for("vit-gpt2")
    assert ask(engine, media[::-1])[::-1] == ask(engine, media)


def test_beams_are_taken_by_a_speech_model(models: dict[str, str]) -> None:
    captions = ask(create(config_of("whisper", models, beams=2)), media_for("whisper"))
    assert len(captions) == 4 and all(caption.n_output_tokens for caption in captions)


SAMPLERS = ["vit-gpt2", "git", "whisper", "llava", "qwen-vl", "checkpoint"]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_sampled_captions_are_the_same_in_any_company_order_and_batch_size(kind: str, models: dict[str, str]) -> None:
    """Each with its own seed and temperature, one of them greedy: exactly, on the CPU in float32."""
    media = media_for(kind)
    ways = [(11, 1.0), (12, 0.7), (13, 0.0), (14, 2.0), (15, 1.0)]
    asked = [replace(media[at % len(media)], ask=Ask(seed=seed, temperature=heat)) for at, (seed, heat) in enumerate(ways)]
    engine, single = create(config_of(kind, models)), create(config_of(kind, models, batch_invariant=True))
    said = ask(engine, asked)
    assert ask(engine, asked[::-1])[::-1] == said
    assert [(one.text, one.seed) for one in ask(single, asked)] == [(one.text, one.seed) for one in said]
    assert [one.seed for one in said] == [11, 12, None, 14, 15]
    assert said[4].text != said[0].text  # the same medium, another seed
    assert said[2].text == ask(engine, [media[2]])[0].text  # greedy, between others that are drawn


@pytest.mark.parametrize("kind", ["blip", "git", "llava", "qwen-vl", "smolvlm", "checkpoint"])
def test_every_medium_may_have_its_own_prompt(kind: str, models: dict[str, str]) -> None:
    engine, medium = create(config_of(kind, models)), media_for(kind)[0]
    asked = [replace(medium, ask=Ask(prompt=prompt)) for prompt in ("w3 w4", "w9 w8 w7 w6 w5", "w3 w4")]
    together = [one.text for one in ask(engine, asked)]
    assert together == [ask(engine, [one])[0].text for one in asked] and together[0] == together[2]


def test_drawn_tokens_are_distributed_as_the_model_says() -> None:
    import torch

    from pipeline.model.draws import Draw, Way

    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    n = 20_000
    draw = Draw([Way(seed, 1.0) for seed in range(n)], 4, 0.95, "cpu")
    taken = draw(torch.zeros(n, 1, dtype=torch.int64), scores.repeat(n, 1)).argmax(dim=1)
    wanted = torch.softmax(scores[:3], dim=0)  # of the four best, three have 0.95 of the probability
    assert torch.allclose(torch.bincount(taken, minlength=5)[:3] / n, wanted, atol=0.015) and int(taken.max()) == 2


def test_an_attempt_at_another_temperature_leaves_the_beams_which_would_say_the_same(models: dict[str, str]) -> None:
    engine, media = create(config_of("vit-gpt2", models, beams=3)), media_for("vit-gpt2")
    searched = [one.text for one in ask(engine, media[:2])]
    drawn = [replace(media[at], ask=Ask(seed=5 + at, temperature=1.5)) for at in range(2)]
    mixed = [one.text for one in ask(engine, [media[0], drawn[0], media[1], drawn[1]])]
    assert [mixed[0], mixed[2]] == searched and mixed[1] != searched[0] and mixed[3] != searched[1]
