"""What to ask SLS for: zstd where it can, lz4 where it cannot."""

from __future__ import annotations

from worker.logs import get_logger

log = get_logger()


class Codec:
    """Of one source. `auto`: zstd until the first answer that is something else."""

    def __init__(self, source: str, wanted: str) -> None:
        self._source = source
        self._proved = wanted != "auto"
        self.ask = "zstd" if wanted == "auto" else wanted

    @property
    def proving(self) -> bool:
        """Whether it is not known yet that SLS can do zstd."""
        return not self._proved

    def answered(self, codec: str) -> None:
        """A pull with a body came in this codec, or the question itself was refused."""
        if self._proved:
            return
        self._proved = True
        if codec != "zstd":
            self.ask = "lz4"
            log.info("this source answers without zstd; lz4 from now on", source=self._source, codec=codec)
