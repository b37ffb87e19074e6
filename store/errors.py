"""What can go wrong with a store, named by consequence: what the caller does next."""


class StoreError(Exception):
    """Any failure of a store. Its message says what happened and how to fix it."""


class NotFound(StoreError):
    """Nothing is stored there: no such ref, or no version of it with that checksum."""


class InvalidRef(StoreError):
    """The ref is not legal, or this backend cannot hold it. Trying again cannot help."""


class Corrupt(StoreError):
    """What is stored fails its own checksum. The message names where it lies."""


class ChecksumMismatch(StoreError):
    """The data to be put is not what its caller said. Nothing was put."""


class TooLarge(StoreError):
    """What is stored is larger than its reader allows. None of it was read."""


class Unavailable(StoreError):
    """The store cannot be reached or cannot write just now. Try again later."""


class ConfigError(StoreError):
    """The store cannot be opened as asked: unknown backend, wrong URL, newer format."""


def no_store(where: str) -> ConfigError:
    """Return the error for a store that is not there, and not to be made."""
    return ConfigError(
        f"there is no store at {where}: name the right one, or let who writes make it first"
    )
