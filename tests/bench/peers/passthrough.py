"""What a team writes first in front of QuantaPay: JSON in, a form by httpx, JSON back. No key, no limit, no metrics.

`UPSTREAM_URL` says where QuantaPay is, `UPSTREAM_KEY` what its key is.
"""

import os
from typing import Any

import httpx
from fastapi import FastAPI

UPSTREAM = os.environ["UPSTREAM_URL"]
KEY = os.environ["UPSTREAM_KEY"]

app = FastAPI()
client = httpx.AsyncClient()


@app.post("/functions/{function}")
async def call_function(function: str, parameters: dict[str, str]) -> dict[str, Any]:
    answer = await client.post(UPSTREAM, data={**parameters, "function": function, "api-key": KEY})
    return answer.json()
