"""An application that lacks a library, for a test."""

import tests.no_such_library  # noqa: F401
