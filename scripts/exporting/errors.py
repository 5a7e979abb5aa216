"""What stops an export. Each text is one line: what, where, and how to mend it."""


class ExportError(Exception):
    """A source, an argument or an output path that does not allow an export."""

    status = 2


class ExportFailed(ExportError):
    """A comparison above its tolerance, or a file that could not be written."""

    status = 1
