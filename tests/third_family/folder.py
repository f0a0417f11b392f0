"""Where the third family's file, preset and table are."""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).parent
