"""An application with a mistake, for a test."""

undefined  # type: ignore[name-defined]  # noqa: B018, F821
