"""What can go wrong, and whose fault it is.

    Exception
    ├── SampleError            one sample's fault -> a row with its reason, then quarantine; the run goes on
    └── NightcapError          a message for a person: what, where, what to do
        ├── RequestError       the request was wrong                        -> exit 2, nothing was started
        └── StoppedError       the run had to stop; the same command resumes -> exit 1

Everything else (MemoryError, ImportError, a bug) stops the run with its traceback: it is never a sample's fault.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a sample has no result. Closed: tables and dashboards group by it."""

    NO_MEDIUM = "no_medium"  # no member of the sample is a picture, a recording or a clip
    SEPARATED = "separated"  # the medium of this key stands elsewhere in the shard: the tar is not sorted
    DAMAGED = "damaged"  # bytes of this sample are damaged in the archive
    TOO_LARGE = "too_large"  # above --max-sample-bytes, never buffered
    UNSUPPORTED_MEMBER = "unsupported_member"  # a sparse file
    EMPTY_MEDIUM = "empty_medium"  # 0 bytes, 0 samples of audio, 0 frames
    TOO_MANY_PIXELS = "too_many_pixels"  # refused before decoding
    UNDECODABLE = "undecodable"  # the decoder says so
    CRASHED = "crashed"  # alone in a child process it killed that process
    HUNG = "hung"  # alone in a child process it did not end in time
    OUT_OF_BOUNDS_MEMORY = "too_much_memory"  # alone in a child process it asked for more than its share
    ENGINE_FAILED = "engine_failed"  # the engine refuses this sample, also alone
    NOT_TAKEN = "not_taken"  # the engine does not take this modality (status: skipped)
    ENGINE_OUT_OF_MEMORY = "engine_out_of_memory"
    ENGINE_TIMEOUT = "engine_timeout"
    ENDPOINT = "endpoint"  # the server failed for a passing reason: busy, broken connection, an answer cut off
    ENDPOINT_REFUSED = "endpoint_refused"  # the server will not take this sample: context too long, content policy
    NO_COLUMN = "no_column"  # the sample lacks what its prompt is made of
    MISSING_FILE = "missing_file"  # a manifest names a file that is not there
    OUTSIDE_SOURCE = "outside_source"  # a path leads out of the source folder
    DUPLICATE_NAME = "duplicate_name"  # an id occurs twice in one manifest
    BAD_ROW = "bad_row"  # a row of a manifest cannot be read
    EMPTY_TEXT = "empty_text"  # there is no text where one belongs
    DOWNLOAD_FAILED = "download_failed"
    FILTERED_SIZE = "filtered_size"  # from here on: removed because a filter was asked for (samples.filters)
    FILTERED_RESOLUTION = "filtered_resolution"
    FILTERED_ASPECT = "filtered_aspect"
    FILTERED_BLANK = "filtered_blank"
    FILTERED_DURATION = "filtered_duration"
    FILTERED_SAMPLE_RATE = "filtered_sample_rate"
    FILTERED_SILENCE = "filtered_silence"
    FILTERED_CLIPPING = "filtered_clipping"
    FILTERED_TEXT_LENGTH = "filtered_text_length"
    FILTERED_TOKENS = "filtered_tokens"
    FILTERED_REPETITION = "filtered_repetition"
    FILTERED_SCRIPT = "filtered_script"
    FILTERED_PATTERN = "filtered_pattern"
    FLAGGED_REPEATS = "flagged_repeats"  # from here on: the caption has a fault for which it was to be rejected (captions.quality)
    FLAGGED_CUT = "flagged_cut"
    FLAGGED_REFUSAL = "flagged_refusal"
    FLAGGED_BOILERPLATE = "flagged_boilerplate"
    FLAGGED_ECHO = "flagged_echo"
    FLAGGED_LANGUAGE = "flagged_language"
    FLAGGED_EMPTY = "flagged_empty"
    FLAGGED_SHORT = "flagged_short"
    FLAGGED_LONG = "flagged_long"
    FLAGGED_LEAK = "flagged_leak"
    DUPLICATE = "duplicate"  # `dedup` found an earlier sample that stands for it

    @property
    def transient(self) -> bool:
        """True where another attempt may succeed: the next run redoes the sample, and its shard stays open until then."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({Reason.ENGINE_OUT_OF_MEMORY, Reason.ENGINE_TIMEOUT, Reason.ENDPOINT, Reason.DOWNLOAD_FAILED})


class SampleError(Exception):
    """One sample cannot be used. Carries a reason of the closed list and one line of detail for a person."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class NightcapError(Exception):
    """A message for a person, without a traceback. `str()` is that message."""


class RequestError(NightcapError):
    """The request cannot be carried out as it stands: exit code 2."""


class StoppedError(NightcapError):
    """The run stopped before its end and can be continued with the same command: exit code 1."""
