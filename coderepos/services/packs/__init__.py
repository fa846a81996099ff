"""The storage for packs: what is stored of a version, and how machines get it back."""
