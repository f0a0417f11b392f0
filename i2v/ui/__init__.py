"""The page, in Gradio. It shows jobs and takes requests; it never holds a job and never imports torch."""

import os

# Gradio reads this when it is imported: i2v never phones home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
