"""The DICOM tests' fixtures serve here as well."""

from dicom.conftest import shuffled, untouched  # noqa: F401
