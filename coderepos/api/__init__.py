"""The HTTP interface: parse, authorise, call a service, answer; the only importer of ``rest_framework``."""
