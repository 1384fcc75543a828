"""The operators' pages over a catalog and its store: Starlette and Jinja2, without a build step or outside resource."""
