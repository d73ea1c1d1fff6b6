"""The playground page at ``/`` and its files under ``/static``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

PAGE_FOLDER = Path(str(files("slm_serve") / "page"))
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter()


class PageFiles(StaticFiles):
    """The files of the page. Browsers ask whether they have changed, so that all are of the same version."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Add the headers of the page."""
        response = super().file_response(*args, **options)
        response.headers.update(PAGE_HEADERS)
        return response


static_files = PageFiles(directory=PAGE_FOLDER)


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """Return the playground page."""
    return FileResponse(PAGE_FOLDER / "index.html", headers=PAGE_HEADERS)
