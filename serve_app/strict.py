"""What every settings model is built on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# The type of an error whose input must not be shown.
UNSHOWN = "unshown"


class Strict(BaseModel):
    """Refuses unknown keys; cannot be changed."""

    # Defaults are validated too: ``model: {}`` must meet the same rules as a spelt-out model.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
