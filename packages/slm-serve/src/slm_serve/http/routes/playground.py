"""The playground page at ``/`` and its files under ``/static``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

PAGE_FOLDER = Path(str(files("slm_serve") / "page"))
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter()
static_files = StaticFiles(directory=PAGE_FOLDER)


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """Return the playground page."""
    return FileResponse(PAGE_FOLDER / "index.html", headers=PAGE_HEADERS)
