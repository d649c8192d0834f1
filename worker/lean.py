"""requests without charset_normalizer, which guesses the encoding of texts that nobody reads through requests here (2 MiB in
each process), and with idna only once a host's name is not ASCII (1 MiB). To be imported before what imports requests.
"""

from __future__ import annotations

import warnings

from buffer.lean import without

with without("chardet", "charset_normalizer", empty="idna"), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # requests says that it found neither
    import requests
    import requests.adapters

__all__ = ["requests"]
