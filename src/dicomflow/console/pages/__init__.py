"""The pages: each a function from a request to a document and its template."""
