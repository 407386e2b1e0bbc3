"""Task files that are ready to run: each a model, a plain PyTorch training loop and an evaluation."""
