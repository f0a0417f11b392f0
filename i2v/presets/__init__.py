"""What is offered: one preset per model, settings by card, a person's own settings, and the words a model knows."""
