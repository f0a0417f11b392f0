"""What a run will take, before it runs: formulas traced from the model's own code, evaluated in milliseconds."""
