"""What can stop a command, by the exit code it ends with (docs/contract.md, "Command line")."""


class SidecarError(Exception):
    """A failure with a message for a person: what happened, and how to fix it."""

    exit_code = 1


class UsageError(SidecarError):
    """Wrong usage or configuration."""

    exit_code = 2


class Incomplete(SidecarError):
    """Finished, but not with everything."""

    exit_code = 3


class Unreachable(SidecarError):
    """A backend cannot be reached."""

    exit_code = 4


class Unwritable(SidecarError):
    """Standard output does not take what the command has to say."""

    exit_code = 4


class NothingThere(SidecarError):
    """The window never held anything."""

    exit_code = 5


class FilteredOut(SidecarError):
    """The filters left nothing of what there is."""

    exit_code = 6
