"""LoRA adapters: found, loaded, fused into the model or kept beside it, row by row."""
