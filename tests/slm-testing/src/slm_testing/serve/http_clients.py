"""HTTP clients that start fast, because they read no certificates: the servers of tests have no TLS."""

import ssl

from openai import DefaultHttpxClient, OpenAI

# For ``verify``. httpx otherwise reads all of certifi's certificates for each client: 50 ms of CPU for each request.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def openai_client(url: str, api_key: str = "none") -> OpenAI:
    """OpenAI's client for the server at ``url``."""
    http_client = DefaultHttpxClient(verify=NO_CERTIFICATES)
    return OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, http_client=http_client)
