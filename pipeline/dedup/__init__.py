"""The same sample only once, over a whole corpus.

    In       SAMPLES: what `samples` reads and decodes
    Out      SIGNATURES, one table a shard; then DROPS, one table a shard
    Rejects  samples that cannot be read take no part: they are neither dropped nor does one stand for another

    signatures ──> divided by bucket ──> matches ──> decisions, in the corpus' order ──> drops
    (a shard at a time)   (a file a group)   (a partition at a time)   (a window of shards at a time)

Samples are in the order (shard, index). A sample is dropped if and only if an earlier sample that is kept matches it, so
that every dropped sample has a twin that is there, and what comes later never changes an earlier decision.
"""
