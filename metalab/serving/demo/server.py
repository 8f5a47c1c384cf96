"""The page of `metalab demo` is served until Ctrl-C, and neither it nor its server fetches anything from elsewhere."""

import logging
import os
import threading
from typing import Any

from starlette.middleware import Middleware

from metalab.config.schema import Demo
from metalab.core.errors import UserError
from metalab.serving.demo import layout
from metalab.serving.demo.page import Page

logger = logging.getLogger("metalab")
LARGEST = "32mb"  # of an upload


class OnlyFromHere:
    """Tell browsers to load nothing for the page from anywhere else (a Content-Security-Policy)."""

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

    def __init__(self, app: Any) -> None:
        """Wrap an ASGI application."""
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, with the policy among the headers."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.POLICY)]
            await send(message)

        await self.app(scope, receive, sent)


def serve(page: Page, where: Demo) -> None:
    """Show the page until Ctrl-C.

    Raises:
        UserError: where it cannot listen.
    """
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own page whether it is there
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,::1"]))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # what gradio asks itself is of no interest
    os.environ["GRADIO_TEMP_DIR"] = str(page.folder / "uploads")
    blocks = layout.build(page)
    try:
        blocks.launch(
            server_name=where.host,
            server_port=where.port,
            inbrowser=where.open,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=LARGEST,
            app_kwargs={"middleware": [Middleware(OnlyFromHere)]},
            theme=layout.theme(),
            css=layout.CSS,
        )
        url = blocks.local_url
        logger.info(f"the page is at {url} until Ctrl-C ends it")
        if where.host not in ("127.0.0.1", "localhost", "::1"):
            logger.warning(f"demo.host={where.host}: others may reach the page, and save to and load from your folders")
        threading.Event().wait()
    except KeyboardInterrupt:
        logger.info(f"stopped; the page was at {blocks.local_url or where.host}")
    except OSError as error:
        raise UserError(
            f"demo.host={where.host} demo.port={where.port}: the page cannot listen there ({error})"
        ) from error
    finally:
        blocks.close(verbose=False)
