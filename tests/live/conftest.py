from browsing import chromium, opened  # noqa: F401  (fixtures)
