"""A medium and the words so far in, the probability of the next word out: P(w_i | w_1..w_i-1, x).

In       batches of pictures, recordings, clips and token ids (batch.py)
Out      losses, captions with their log-probabilities, and checkpoint folders

medium ─> encoder (picture | recording | clip) ─> memory ─> BERT with cross-attention ─> objectives | generation

It is no stage: `training` teaches it, `captions` and `evaluation` ask it. No Ray here.
"""
