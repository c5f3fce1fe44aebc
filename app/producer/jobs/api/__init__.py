"""The HTTP API: jobs as JSON, errors as problem documents (RFC 9457), and a document that describes it all."""
