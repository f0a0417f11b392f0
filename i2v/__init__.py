"""i2v: one picture and a sentence become a video, on the graphics card a person already owns."""

import logging

__version__ = "0.1.0"

# diffusers loads torchao wherever that is installed; what it says then is of kernels that nobody asked for.
for _chatty in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)
