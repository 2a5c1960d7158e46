"""A catalogue of one model, `@cf/m`."""

from pathlib import Path

from serving.catalog import Catalog, Model

MODEL = "@cf/m"


def catalog(max_images: int = 2) -> Catalog:
    """It has no checkpoint: nothing here loads one."""
    return Catalog(Model(id=MODEL, checkpoint=Path(), context_window=2048, max_images=max_images))
