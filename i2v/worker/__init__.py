"""The process that owns the GPU, the protocol it speaks, and the dispatcher that feeds it."""
