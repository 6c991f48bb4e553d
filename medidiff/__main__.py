"""``python -m medidiff``."""

from __future__ import annotations

from medidiff.cli import main

if __name__ == "__main__":
    main()
