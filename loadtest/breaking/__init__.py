"""Where each pool breaks under rising load, and the settings that follow from it."""
