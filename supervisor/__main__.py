"""The entry point. It imports nothing at its top level: spawn imports this module again in every child."""


def main() -> None:
    """`sls-siem`."""
    import sys

    if sys.argv[1:2] == ["supervise"]:
        _keep_signals()
    _keep_descriptors()
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("supervisor")
    except PackageNotFoundError:
        pass
    else:
        sys.stderr.write(
            "error: this Python environment also holds PyPI's `supervisor`, which has the same import name\n"
            "hint: install sls-siem into an environment of its own, or `pip uninstall supervisor`\n"
        )
        raise SystemExit(78)
    from supervisor.cli import run

    raise SystemExit(run())


def _keep_signals() -> None:
    """A stop or a HUP that comes while we start waits until the loop can heed it: by default it would kill us."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _keep_descriptors() -> None:
    """Where somebody closed stdin, stdout or stderr (`2>&-`), the next file of ours would take its number, and its lines. For
    our children too.
    """
    import os
    import sys

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as we live
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
