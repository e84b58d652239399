"""Rolling deployments, and several apps in one schema."""
