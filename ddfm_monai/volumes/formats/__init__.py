"""One small module per file format: ``SUFFIXES``, ``read`` and ``write``.

``read(path)`` gives :data:`~ddfm_monai.volumes.formats.common.Contents`, or raises InputError.
``write(volume, temporary, path, description)`` writes ``volume`` to ``temporary`` with the note ``description``;
messages say ``path``, where the file will be. It raises InputError for a volume that the format does not hold, and
OSError as the system does.
"""
