"""Another wall clock for a process, by libfaketime. Its monotonic clock stays."""

from support import debian_packages


def shifted(minutes: int) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead. Skips the test where libfaketime cannot be had."""
    folder = debian_packages.unpacked("libfaketime", "bookworm", ("libfaketime",), lambda _new, _folder: None)
    [library] = folder.glob("usr/lib/*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{minutes:+d}m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
