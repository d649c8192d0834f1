"""The entry point. It imports nothing at its top level: spawn imports this module again in every child."""


def main() -> None:
    """`sls-siem`."""
    import sys
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


if __name__ == "__main__":
    main()
