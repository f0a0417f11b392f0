"""Starts i2v's page: `python app.py [--host H] [--port N] [--share] [--auth user:password]`."""

from __future__ import annotations

import argparse
import sys

from i2v.errors import I2VError
from i2v.settings import Settings, set_up_logging
from i2v.web.launch import LaunchOptions, launch


def main() -> int:
    """Read the command line and serve until stopped."""
    parser = argparse.ArgumentParser(description="i2v: one picture and a sentence become a video.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="open a temporary public link; always with a login")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this login")
    args = parser.parse_args()
    try:
        settings = Settings.from_environment()
        set_up_logging(settings.log_level)
        launch(settings, LaunchOptions(args.host, args.port, args.share, args.auth))
    except I2VError as error:
        print(f"i2v: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
