"""Recipes: the classifiers of the field's tutorials as options of one trainer: `recipes.toml`."""

from __future__ import annotations

import pathlib
import tomllib

from imagecensus.model_export.common.errors import UserError

RECIPES: dict[str, dict[str, str]] = tomllib.loads(
    pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
NAMES = tuple(RECIPES)


def recipe_flags(name: str) -> list[str]:
    """The options of a recipe as command-line words. Raises UserError for an unknown one."""
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: unknown; there are {', '.join(NAMES)}")
    return RECIPES[name]["options"].split()


def describe_recipes() -> str:
    """All recipes with their descriptions and options, for people."""
    return "\n\n".join(
        f"{name}: {recipe['description']}\n\nOptions:"
        f" {' '.join(recipe['options'].split()) or '(the defaults)'}"
        for name, recipe in RECIPES.items()
    )
