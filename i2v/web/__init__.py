"""The web app around the page, and how it is started."""
