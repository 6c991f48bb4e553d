"""The cards of the models that ship, as a page: ``python -m tests.model_cards`` writes docs/models.md."""

from __future__ import annotations

from pathlib import Path

from medidiff.cli.models import flat
from medidiff.models import shipped_models

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def page() -> str:
    """The page, from the headers of the model files alone."""
    lines = [
        "# The models that ship",
        "",
        "Written by `python -m tests.model_cards` from the headers of the model files; a test holds the page to them.",
        "`medidiff models NAME` shows the same card.",
    ]
    for model in shipped_models():
        facts = {"parameters": f"{model.parameters:,}", "size": f"{model.size / 1e6:.1f} MB", **flat(model.card)}
        lines += ["", f"## {model.name}", ""]
        lines += [f"- **{name.replace('_', ' ')}**: {value}" for name, value in facts.items() if name != "name"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
