"""The page at `/`: one file, no outside resources, dark and light. It reads /status and /history every two seconds."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_bytes()
