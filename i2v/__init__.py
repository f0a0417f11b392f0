"""i2v: one picture and a sentence become a video, on the graphics card a person already owns."""

import logging
import os

__version__ = "0.1.0"

# diffusers loads torchao wherever that is installed; what it says then is of kernels that nobody asked for.
for _chatty in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)

# Read when huggingface_hub is imported: a download tells the hub nothing of this machine.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
