"""The HTTP interface: routes, schemas, middleware, exception handlers and response streams."""
