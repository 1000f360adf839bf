"""One small module a resource."""
