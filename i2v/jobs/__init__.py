"""Jobs: their states, the database that keeps them, and its migrations. No torch, no gradio."""
