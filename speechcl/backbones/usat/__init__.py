"""The voice model of USAT: its parts, and presets that put them together."""
