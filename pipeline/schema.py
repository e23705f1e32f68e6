"""The only dictionary of columns: dtype, unit, range, what null means, who writes it.

Tables, in the order data flows:

    SAMPLES     read + decode -> engine      one row a sample or a piece of a recording, then one end row a shard
    PARTS       engine -> commit             the same rows with captions instead of pixels and waves
    CAPTIONS    commit -> the user           one row a sample (times captions per sample), in the shard's order
    PREPARED    prepare -> the trainer       one row a sample that was kept, in the shard's order
    SIGNATURES  dedup -> dedup              one row a sample: what near duplicates have in common
    DROPS       dedup -> prepare            one row a sample that an earlier one stands for
    QUARANTINE  commit -> the user           rejected samples with their bytes, and damage
    SCORES      evaluate -> the user         one row a caption that was scored
    MEASURED    evaluate -> evaluate         one row a sample that a checkpoint was measured on, with its features
    UNDERSTOOD  evaluate -> the user         one row a sample that a checkpoint was measured on
    RECEIPTS    commit -> the driver         counts of what was committed
    LEDGER      nightly -> nightly           one row a caption table
    ITEMS       scan -> write                samples of a raw source by the place of their bytes, one row each
    REFUSED     scan, write -> the user      rows and files of a raw source that are no sample

Identity is (shard, index); (shard, index, piece) while a long recording travels in pieces.
"""

import pyarrow as pa

KIND_SAMPLE = "sample"
KIND_END = "end"

MODALITIES = ("image", "audio", "video")

OK = "ok"  # SAMPLES.status while no caption stands yet
SUCCESS = "success"
TRUNCATED = "truncated"  # a caption that ends at the token limit
ERROR = "error"  # the engine returned a caption and an error with it
REJECTED = "rejected"
SKIPPED = "skipped"  # the engine does not take this modality
TAKEN = "taken"  # on its way: its captions come from an earlier version of the archive; the commit puts them in
FILTERED = "filtered"  # removed because a filter, or `--drop`, was asked for: no fault, and no part of the reject budget

SEGMENT = pa.struct(
    [
        pa.field("start_s", pa.float64()),  # seconds from the start of the recording
        pa.field("end_s", pa.float64()),
        pa.field("text", pa.string()),
    ]
)

_ORIGIN = [
    pa.field("kind", pa.string(), nullable=False),  # KIND_SAMPLE | KIND_END
    pa.field("shard", pa.string(), nullable=False),  # path below the recipe's root, with its extension
    pa.field("fingerprint", pa.string(), nullable=False),  # hex; of the shard's path, size and mtime when it was planned
    pa.field("index", pa.int64(), nullable=False),  # 0-based position of the sample in its shard; n in the end row
    pa.field("piece", pa.int32(), nullable=False),  # 0-based piece of a long recording; 0 elsewhere
    pa.field("last", pa.bool_(), nullable=False),  # the last (or only) piece of its sample
    pa.field("key", pa.string()),  # null in end rows; bytes that are not UTF-8 stand escaped as \\xNN
    pa.field("offset", pa.int64()),  # bytes: where the sample's first header starts in the (unpacked) tar
    pa.field("size", pa.int64()),  # bytes from there to the end of its last member, padding included
    pa.field("sample_sha256", pa.string()),  # hex; members sorted by field: name, NUL, SHA-256 of the bytes
    pa.field("media_sha256", pa.string()),  # hex of the primary medium's bytes; null without a medium
    pa.field("modality", pa.string()),  # MODALITIES; null without a medium
    pa.field("text", pa.string()),  # the reference that came with it; null where there is none or it is unreadable
    pa.field("flags", pa.list_(pa.string()), nullable=False),  # remarks that do not reject: reference_not_utf8, captions.quality.Flag, ...
    pa.field("status", pa.string(), nullable=False),
    pa.field("stage", pa.string()),  # which step rejected: read | decode | engine | quality; null unless rejected or skipped
    pa.field("reason", pa.string()),  # errors.Reason; null unless rejected or skipped
    pa.field("detail", pa.string()),  # one line for a person
    pa.field("width", pa.int32()),  # px of the original, after EXIF orientation; null for audio
    pa.field("height", pa.int32()),
    pa.field("duration_s", pa.float64()),  # seconds of this piece; of the whole recording in CAPTIONS; null for pictures
    pa.field("start_s", pa.float64()),  # seconds: where this piece starts in the recording; null for pictures
    pa.field("decode_s", pa.float64()),  # seconds of work spent on reading and decoding this row; null in end rows
    pa.field("end", pa.string()),  # JSON of samples.group.EndOfShard in end rows; null elsewhere
    pa.field("earlier", pa.string()),  # JSON of the captions of a sample with status taken (samples.earlier); null elsewhere
]

SAMPLES = pa.schema(
    [
        *_ORIGIN,
        pa.field("media_bytes", pa.int64()),  # bytes: size of the encoded primary medium
        pa.field("media_field", pa.string()),  # its field name: jpg, wav, left.png, ...
        pa.field("pixels_hwc", pa.large_binary()),  # uint8 RGB, pixels_height x pixels_width x 3; null for audio
        pa.field("pixels_height", pa.int32()),
        pa.field("pixels_width", pa.int32()),
        pa.field("frame_times_s", pa.list_(pa.float64())),  # seconds of a clip's frames, one below the other; null for a single picture
        pa.field("wave_t", pa.large_binary()),  # int16 mono at sample_rate_hz; null for pictures
        pa.field("sample_rate_hz", pa.int32()),
        pa.field("guard", pa.bool_(), nullable=False),  # an earlier run died twice with this sample in flight
        pa.field("columns", pa.string()),  # JSON: values from the sample's `json` that prompts are made of; null where none are asked for
    ]
)

_CAPTION = [
    pa.field("prompt_id", pa.string()),  # name of the prompt; null for engines without one
    pa.field("caption_index", pa.int32(), nullable=False),  # 0..captions per sample - 1
    pa.field("caption", pa.string()),  # null where status is rejected or skipped
    pa.field("finish_reason", pa.string()),  # stop | length; null where the engine does not tell
    pa.field("n_prompt_tokens", pa.int64()),
    pa.field("n_output_tokens", pa.int64()),
    pa.field("mean_logprob", pa.float64()),  # natural log, mean over output tokens, <= 0
    pa.field("language", pa.string()),  # ISO 639-1, given or detected
    pa.field("seed", pa.int64()),  # null when decoding is deterministic
    pa.field("n_retries", pa.int32()),  # how often it was asked for again because of a fault; null where there is no caption
    pa.field("segments", pa.list_(SEGMENT)),  # transcripts only
]

PARTS = pa.schema(
    [
        *_ORIGIN,
        *_CAPTION,
        pa.field("collate_s", pa.float64()),  # seconds of host work of the engine, this row's share of its micro-batch
        pa.field("engine_s", pa.float64()),  # seconds of device work, likewise
        pa.field(
            "account", pa.string()
        ),  # JSON of captions.account.Account in the first row of what a call of the stage gave; null elsewhere
    ]
)

CAPTIONS = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("sample_sha256", pa.string()),
        pa.field("media_sha256", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("text", pa.string()),
        pa.field("prompt_id", pa.string()),
        pa.field("caption_index", pa.int32(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string(), nullable=False),  # success | truncated | error | rejected | skipped
        pa.field("reason", pa.string()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("finish_reason", pa.string()),
        pa.field("n_prompt_tokens", pa.int64()),
        pa.field("n_output_tokens", pa.int64()),
        pa.field("mean_logprob", pa.float64()),
        pa.field("language", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("n_retries", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("duration_s", pa.float64()),
        pa.field("segments", pa.list_(SEGMENT)),
    ]
)

PREPARED = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),  # position in the shard; gaps are rejects, which stand in QUARANTINE
        pa.field("sample_sha256", pa.string()),
        pa.field("media_sha256", pa.string()),  # of the original medium, before anything was done to it
        pa.field("modality", pa.string()),  # MODALITIES; null for text alone
        pa.field("text", pa.string()),  # normalised; null where there was none and none was asked for
        pa.field("references", pa.list_(pa.string())),  # all texts that came with it, normalised, `text` first; null if at most one
        pa.field("token_ids", pa.list_(pa.int32())),  # with the tokenizer's special tokens; null without a tokenizer or a text
        pa.field("n_tokens", pa.int32()),  # before truncation
        pa.field("image", pa.large_binary()),  # JPEG, upright RGB; null unless modality is image
        pa.field("audio", pa.large_binary()),  # FLAC, mono int16 at sample_rate_hz; null without sound
        pa.field("frames", pa.list_(pa.large_binary())),  # JPEGs, in the order of time; null unless modality is video
        pa.field("timestamps_s", pa.list_(pa.float64())),  # seconds from the clip's start, one a frame
        pa.field("width", pa.int32()),  # px as stored; null for audio
        pa.field("height", pa.int32()),
        pa.field("sample_rate_hz", pa.int32()),
        pa.field("duration_s", pa.float64()),  # of the recording or clip; null for pictures
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # remarks that do not reject: truncated, reference_not_utf8, ...
    ]
)

MEMBER = pa.struct([pa.field("name", pa.string()), pa.field("bytes", pa.large_binary())])

QUARANTINE = pa.schema(
    [
        pa.field("key", pa.string()),  # null for damage without a legible name
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64()),  # null for damage, which is no sample
        pa.field("stage", pa.string(), nullable=False),  # read | decode | engine | quality; of prepare read | prepare | filter
        pa.field("reason", pa.string(), nullable=False),  # errors.Reason
        pa.field("detail", pa.string()),
        pa.field("transient", pa.bool_(), nullable=False),
        pa.field("offset", pa.int64()),  # bytes in the (unpacked) tar
        pa.field("size", pa.int64()),  # bytes
        pa.field("members", pa.list_(MEMBER)),  # the original bytes; null above the bound: see offset and size
        pa.field("flags", pa.list_(pa.string())),  # remarks that its row has: key_repeated, ...; null for damage
    ]
)

RECEIPTS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("lo", pa.int64(), nullable=False),  # first index of the block
        pa.field("hi", pa.int64(), nullable=False),  # last index of the block, inclusive
        pa.field("counts", pa.string(), nullable=False),  # JSON: {"success": 3, "rejected:undecodable": 1, ...}
        pa.field("audio_s", pa.float64(), nullable=False),  # seconds of recordings captioned
        pa.field("committed", pa.bool_(), nullable=False),  # this block completed its shard
        pa.field("damage", pa.int64(), nullable=False),  # damaged byte ranges, in the receipt of the end row
        pa.field("seconds", pa.string(), nullable=False),  # JSON: where the time of this block went, by step
        pa.field("examples", pa.string(), nullable=False),  # JSON: up to 3 rejects [reason, shard, key, detail]
        pa.field("sums", pa.string()),  # JSON: captions, flags, retries and tokens of this block, to be added up; null without captions
        pa.field("actors", pa.string()),  # JSON: list of captions.account.Account; null without captions
    ]
)

PLACED = pa.struct(
    [
        pa.field("field", pa.string()),  # extension in the archive, lower case; empty until a download tells
        pa.field("data", pa.large_binary()),  # the bytes themselves, for text; null where they stand elsewhere
        pa.field("url", pa.string()),  # the file they stand in; null with data
        pa.field("offset", pa.int64()),  # bytes; null with data
        pa.field("size", pa.int64()),  # bytes; -1: the whole file, whose size is not known yet; null with data
    ]
)

ITEMS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of the sample in its source
        pa.field("source", pa.string(), nullable=False),  # the file that names it
        pa.field("row", pa.int64()),  # where in it; null where it has no rows
        pa.field("id_hash", pa.uint64()),  # of an explicit id, which must not occur twice; null where there is none
        pa.field("size", pa.int64(), nullable=False),  # bytes in the archive, headers and padding included, as far as known
        pa.field("members", pa.list_(PLACED), nullable=False),
    ]
)

REFUSED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),  # the manifest, archive or file that names it
        pa.field("row", pa.int64()),  # 1-based line or 0-based row of it; null where it has none
        pa.field("name", pa.string(), nullable=False),  # of the sample in its source, as far as there is one
        pa.field("reason", pa.string(), nullable=False),  # errors.Reason
        pa.field("detail", pa.string()),  # one line for a person
        pa.field("url", pa.string()),  # what was to be downloaded; null elsewhere
        pa.field("key", pa.string()),  # the key that stays unused in the archive; null where none was assigned yet
    ]
)

_SAMPLE_SCORES = [
    pa.field("chrf", pa.float64()),  # 0 to 100
    pa.field("cider_d", pa.float64()),  # 0 to 10
    pa.field("rouge_l", pa.float64()),  # 0 to 1
    pa.field("exact_match", pa.float64()),  # 0 or 1, after normalising
    pa.field("token_f1", pa.float64()),  # 0 to 1, after normalising
    pa.field("wer", pa.float64()),  # word errors a word of the reference that fits best, 0 and up; null without words
    pa.field("cer", pa.float64()),  # likewise by characters
]

SCORES = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("caption_index", pa.int32(), nullable=False),
        pa.field("modality", pa.string()),
        pa.field("language", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # where the references are from: text, or the name of the file
        pa.field("references", pa.list_(pa.string()), nullable=False),  # one or more
        pa.field("caption", pa.string(), nullable=False),
        *_SAMPLE_SCORES,
        pa.field("against", pa.struct([pa.field("caption", pa.string()), *_SAMPLE_SCORES])),  # of the other run; null without one
    ]
)

_READINGS = pa.struct(
    [pa.field(name, pa.string()) for name in ("raw", "normalised", "calibrated", "contrastive")]
)  # classes, null: not read so
_PAINTED = pa.struct(
    [
        pa.field("psnr", pa.float64()),  # dB, of the picture made from the text against the real one
        pa.field("psnr_shuffled", pa.float64()),  # of one made from another sample's text; null for one sample alone
        pa.field("psnr_flat", pa.float64()),  # of the real picture's mean colour
        pa.field("reference", pa.string()),
        pa.field("caption", pa.string()),  # what the captioner calls the picture that was made
        pa.field("caption_of_real", pa.string()),
        pa.field("picture", pa.string()),  # JPEG, base64
        pa.field("real", pa.string()),
    ]
)
_UNDERSTOOD = [
    pa.field("shard", pa.string(), nullable=False),
    pa.field("index", pa.int64(), nullable=False),
    pa.field("modality", pa.string()),
    pa.field("label", pa.string()),  # the true class; null without one
    pa.field("text", pa.string(), nullable=False),  # as it was scored: decoded tokens
    pa.field("n_tokens", pa.int64(), nullable=False),  # that are predicted: the first is given
    pa.field("n_unknown", pa.int64(), nullable=False),
    pa.field("n_bytes", pa.int64(), nullable=False),  # of `text` in UTF-8
    pa.field("logp_right", pa.float64()),  # natural log of P(text | its medium)
    pa.field("logp_shuffled", pa.float64()),  # with another sample's; null where there was none of another text
    pa.field("logp_absent", pa.float64()),  # without any medium
    pa.field("zero_shot_medium", _READINGS),  # predicted class of the medium, by reading of the probabilities
    pa.field("zero_shot_text", _READINGS),  # likewise of the text, without its medium
    pa.field("painted", _PAINTED),  # null but for the samples that were painted
]

MEASURED = pa.schema(
    [
        *_UNDERSTOOD,
        pa.field("media", pa.list_(pa.float32())),  # mean of the medium's memory tokens
        pa.field("words", pa.list_(pa.float32())),  # mean of the word states, without any medium
        pa.field("caption", pa.string()),  # what the model says of the medium; null where it was not asked
        pa.field("cut", pa.bool_()),  # the caption ends at the token limit
        pa.field("references", pa.list_(pa.string())),  # texts as they were prepared
        pa.field("common_media", pa.list_(pa.float32())),  # of length 1; null for models without a common space
        pa.field("common_texts", pa.list_(pa.float32())),
    ]
)

UNDERSTOOD = pa.schema(
    [
        *_UNDERSTOOD,
        pa.field("probe_medium", pa.string()),  # predicted class; null without a label, and of classes with one sample
        pa.field("probe_text", pa.string()),
        pa.field("rank_of_text", pa.int64()),  # of the own text among those of the pool, from 1, asked by the medium; null outside the pool
        pa.field("rank_of_medium", pa.int64()),
    ]
)

SIGNATURES = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),  # every sample of the shard has its row: row number and index are the same
        pa.field("key", pa.string()),
        pa.field("reason", pa.string()),  # errors.Reason of a sample that cannot be used, which takes no part; null elsewhere
        pa.field("media_sha256", pa.binary(32)),  # of the primary medium; null without one
        pa.field("picture", pa.uint64()),  # perceptual hash; null where there is no picture, and for blank ones
        pa.field("minhash", pa.binary(512)),  # 128 little-endian uint32 of the text; null without a text
    ]
)

DROPS = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),  # of the sample that is dropped
        pa.field("reason", pa.string(), nullable=False),  # media | picture | text: what it has in common with its twin
        pa.field("twin_shard", pa.string(), nullable=False),  # the earlier sample that is kept in its place
        pa.field("twin_index", pa.int64(), nullable=False),
        pa.field("twin_key", pa.string()),
    ]
)

LEDGER = pa.schema(
    [
        pa.field("stem", pa.string(), nullable=False),  # of the archive and its caption table
        pa.field("table_bytes", pa.int64(), nullable=False),  # size of the caption table
        pa.field("written_s", pa.float64(), nullable=False),  # seconds since the epoch, by the store's clock
        pa.field("fingerprint", pa.string(), nullable=False),  # of the archive it was made from; empty where the table does not say
        pa.field("counts", pa.string(), nullable=False),  # JSON: samples by status
        pa.field("night", pa.string(), nullable=False),  # YYYY-MM-DD: the night that first saw the table as it is
    ]
)
