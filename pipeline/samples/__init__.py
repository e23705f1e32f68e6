"""Archives in, model-ready rows out.

In       WebDataset tars, plain or gzip
Out      schema.SAMPLES: one row a sample or a piece of a recording, one end row a shard
Rejects  rows of the same table with status, stage, reason and detail; no step drops a row

shard ─> tar (headers, damage) ─> group (samples) ─> medium (decode) ─> source (rows, Ray)
"""
