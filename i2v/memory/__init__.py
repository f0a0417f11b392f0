"""What a run takes of the machine: precision, plan, and measured memory."""
