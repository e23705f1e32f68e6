"""`flags.py`: precision and recall of the flags on a labelled set, and what they cost.

The set is made here: good captions (a grammar of scenes, hand-written ones in ten languages, hard ones that look like faults, names),
and the same corrupted in one known way each. Every flag is judged on all of it: a flag on a caption that was not corrupted
that way is a false one, also where the caption was corrupted otherwise. Refusals and the like are worded apart from the lists
in `phrases.py`, by the same author: real models will find other words.
"""

import importlib.util
import random
import time
from collections.abc import Callable

from faults import GOOD_TRANSCRIPTS, HARD, LANGUAGES, REFUSALS, scene

from pipeline.captions.corpus import sketch_of
from pipeline.captions.quality import Bounds, Flag, Said, flags_of

Labelled = tuple[Said, Bounds, Flag | None]
PROMPT = "Describe the picture for a blind person in one or two plain sentences, without guessing."
EACH = 400


def loop(text: str, noise: random.Random) -> str:
    """The last words again and again, or the whole, or one word."""
    words = text.split()
    tail = words[-noise.randint(1, min(6, len(words))) :]
    return " ".join([*words, *tail * noise.randint(3, 8)])


def opened(text: str, noise: random.Random) -> str:
    """With an opening that says nothing."""
    starts = (
        "The image shows {}", "This picture depicts {}", "In this image, {}", "A photo of {}", "Sure, here is a caption: {}", "The photo features {}",
        "Here's a description of the image: {}", "This is a photograph of {}", "In the picture we see {}", "Caption: {}", "We can see {}",
        "An image showing {}", "The picture captures {}", "I see {}", "Certainly! {}", "The scene shows {}", "There is a picture here with {}",
    )  # fmt: skip
    return noise.choice(starts).format(text[0].lower() + text[1:])


def leaked(text: str, noise: random.Random) -> str:
    """With something that belongs to a machine."""
    forms = (
        "{}<|im_end|>", "{}</s>", "**{}**", '{{"caption": "{}"}}', "<p>{}</p>", "ASSISTANT: {}", "{} [0.12, 0.44, 0.50, 0.91]", "{} <box>(12,40),(300,410)</box>",
        "# {}", "{} https://example.com/a.jpg", "IMG_20240312.jpg {}", "{} ### Human: more", "[INST] {} [/INST]", "{} &amp; more", "{}\\n\\n",
        "{} <loc_123>", "{} 0.532 0.221 0.987", "{} 20240312083011", "```{}```", "{} <unk> <unk>",
    )  # fmt: skip
    return noise.choice(forms).format(text)


def corrupted(noise: random.Random) -> list[Labelled]:
    """EACH of every fault."""
    makers: dict[Flag, Callable[[str], tuple[str, Said]]] = {
        Flag.REPEATS: lambda text: (loop(text, noise), Said("")),
        Flag.CUT: lambda text: (text[: len(text) // 2], Said("", cut=True)),
        Flag.REFUSAL: lambda _: (noise.choice(REFUSALS), Said("")),
        Flag.BOILERPLATE: lambda text: (opened(text, noise), Said("")),
        Flag.ECHO: lambda text: (noise.choice((PROMPT, PROMPT[: noise.randint(40, len(PROMPT))], PROMPT.lower())) + " " + text, Said("")),
        Flag.EMPTY: lambda _: (noise.choice(("", " ", "...", "\n", "-", "?!", "。", '""')), Said("")),
        Flag.SHORT: lambda text: (noise.choice(text.strip(".").split()), Said("", reference=noise.choice(("", scene(noise))))),
        Flag.LONG: lambda _: (" ".join(noise.sample([*HARD, *(scene(noise) for _ in range(16))], 38)), Said("")),
        Flag.LEAK: lambda text: (leaked(text, noise), Said("")),
    }
    found: list[Labelled] = []
    for flag, make in makers.items():
        for _ in range(EACH):
            text, form = make(scene(noise))
            found.append(
                (
                    Said(text, cut=form.cut, instruction=PROMPT, reference=form.reference),
                    Bounds(language="" if flag is Flag.REFUSAL else "en"),
                    flag,
                )
            )
    texts = [(language, text) for language, several in LANGUAGES.items() for text in several]
    for _ in range(EACH):
        language, text = noise.choice(texts)
        expected = noise.choice([one for one in LANGUAGES if one != language])
        found.append((Said(text), Bounds(language=expected), Flag.LANGUAGE))
    return found


def good(noise: random.Random) -> list[Labelled]:
    """Without faults."""
    found: list[Labelled] = [(Said(scene(noise), instruction=PROMPT), Bounds(language="en"), None) for _ in range(6 * EACH)]
    found += [(Said(text, instruction=PROMPT), Bounds(language="en"), None) for text in HARD for _ in range(4)]
    found += [
        (Said(text), Bounds(language=language), None) for language, several in LANGUAGES.items() for text in several for _ in range(4)
    ]
    found += [
        (Said(text, "audio", len(text) / 13, transcript=True), Bounds(language="en"), None) for text in GOOD_TRANSCRIPTS for _ in range(8)
    ]
    known = names()
    found += [(Said(noise.choice(known), reference=noise.choice(known)), Bounds(), None) for _ in range(EACH if known else 0)]
    return found


def names() -> list[str]:
    """Of emoji, where the demo's package is there: a corpus of names, which a captioner guesses rightly or wrongly."""
    if importlib.util.find_spec("emoji") is None:
        return []
    import emoji

    known = {entry["en"].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values()}
    return sorted(name for name in known if "skin tone" not in name and name.isascii())


def main() -> None:
    """One line a flag, then the cost."""
    noise = random.Random(11)
    labelled = [*good(noise), *corrupted(noise)]
    judged = [(said, flags_of(said, bounds), label) for said, bounds, label in labelled]
    clean = [(said, flags) for said, flags, label in judged if label is None]
    print(f"{len(judged):,} captions, {len(clean):,} of them good; good ones with any flag: {sum(bool(flags) for _, flags in clean)}")
    for flag in Flag:
        hit = sum(flag in flags for _, flags, label in judged if label is flag)
        wrong = [(said.text, label) for said, flags, label in judged if flag in flags and label is not flag]
        real = sum(label is flag for *_, label in judged)
        by_good = sum(label is None for _, label in wrong)
        share = hit / max(1, hit + len(wrong))
        others = len(wrong) - by_good
        print(f"{flag.value:<12} precision {share:.3f}  recall {hit / real:.3f}   false on {by_good} good, {others} others")
    for said, flags, label in judged:
        if label is not None and label not in flags:
            print(f"   missed {label.value}: {said.text[:110]!r}") if noise.random() < 0.05 else None
    for said, flags in clean:
        if flags:
            print(f"   false {[flag.value for flag in flags]}: {said.text[:110]!r}") if noise.random() < 0.2 else None
    began = time.process_time()
    for said, bounds, _ in labelled:
        flags_of(said, bounds)
    spent_s = (time.process_time() - began) / len(labelled)
    import pyarrow as pa

    texts = [said.text for said, _, _ in labelled]
    zeros = [0] * len(texts)
    began = time.process_time()
    sketch_of(pa.table({"caption": texts, "text": texts, "caption_index": zeros}))
    print(
        f"flags {spent_s * 1e6:.0f} us a caption, language included; sketch {(time.process_time() - began) / len(texts) * 1e6:.0f} us, CPU"
    )


if __name__ == "__main__":
    main()
