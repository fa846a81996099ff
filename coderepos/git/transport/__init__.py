"""The network side of a fetch: guarded connections, strict HTTP and the upload-pack protocol."""
