"""Envelope encryption of access tokens: format ``CRE1``, keyring, model field, and the type that hides a secret."""
