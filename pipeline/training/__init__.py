"""Prepared rows in, a checkpoint out.

In       schema.PREPARED
Out      a self-describing folder: safetensors, tokenizer, configuration

prepared rows ─> batches (uint8, int16, token ids) ─> model and objectives ─> loop ─> checkpoints
"""
