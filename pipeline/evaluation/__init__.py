"""Captions or a checkpoint in, scores out.

In   schema.CAPTIONS with the references that came with them or stand in a file, or log-probabilities and embeddings
Out  scores.json (each score with its interval, by bucket) and samples.parquet (one row a sample)

tables + references ─> pass 1: document frequencies ─> pass 2: statistics a sample ─┬─> intervals ─> scores.json
                                                                                    └─> samples.parquet
"""
