"""Handwritten digits by a small vision transformer that Hugging Face's own trainer trains: one callback, no download.

A script of the loop form: `python huggingface_digits.py SITE`. A site's data are a .npz file with x (n, 1, 8, 8), from
0 to 1, and y; docs/guides/from-your-script.md makes two from scikit-learn's digits. The last hundred are held out.
"""

import sys

import numpy as np
import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import swarm
from node.integrations.huggingface import SwarmCallback

STEPS = 50  # in a round

shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
model = ViTForImageClassification(ViTConfig(**shape, **size))
peer = swarm.join(sys.argv[1], model)
with np.load(peer.data) as file:
    x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
train = [{"pixel_values": image, "labels": label} for image, label in zip(x[:-100], y[:-100], strict=True)]


@peer.evaluate
def score(model):
    with torch.no_grad():
        guess = model(pixel_values=x[-100:].to(model.device)).logits.argmax(1).cpu()
    return {"samples": 100, "accuracy": (guess == y[-100:]).float().mean().item()}


arguments = TrainingArguments(
    max_steps=STEPS * peer.rounds,
    per_device_train_batch_size=32,
    learning_rate=3e-3,
    logging_steps=STEPS,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
)
Trainer(model, arguments, train_dataset=train, callbacks=[SwarmCallback(peer, steps=STEPS)]).train()
model.eval()
print(f"accuracy {score(model)['accuracy']:.4f}")
