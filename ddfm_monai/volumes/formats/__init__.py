"""One small module per file format: ``SUFFIXES``, ``read`` and ``write``."""
