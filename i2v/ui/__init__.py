"""The page, in Gradio. It shows jobs and takes requests; it never holds a job and never imports torch."""

import os

# i2v never phones home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
