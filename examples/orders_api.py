"""An API for orders in FastAPI: a route answers 201 when its order is stored.

    uvicorn --app-dir examples orders_api:app     # into orders.db
    ORDERS_DATABASE=postgresql://… uvicorn --app-dir examples orders_api:app

    $ curl -d '{"item": "tea", "amount": 2}' -H 'content-type: application/json' \\
           -H 'idempotency-key: 7' 127.0.0.1:8000/orders
    {"id":"7","status":"stored"}

The pipeline lives as long as the application (`lifespan`): when the server stops, orders that were
taken are stored. If the pipeline fails, requests hear 503 and /readyz is red. Needs fastapi,
uvicorn and, for PostgreSQL, tailrace[postgres].
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from tailrace import Channel, Group, Message, Reject, each, submit
from tailrace.asgi import lifespan
from tailrace.store import Store, store_postgres, store_sqlite

PRICES = {"tea": Decimal("3.20"), "coffee": Decimal("4.50")}
PATIENCE = 5.0  # seconds that a caller waits

# How outcomes are answered. A message that failed or was lost may be sent again under its key.
STATUS = {"stored": 201, "rejected": 422, "aborted": 409, "dead": 202, "failed": 503, "lost": 503}


class Order(BaseModel):
    """What a caller sends."""

    item: str
    amount: Annotated[int, Field(gt=0, le=100)]


class PricedOrder(BaseModel):
    """A row."""

    item: str
    amount: int
    total: Decimal


def price(order: Order) -> PricedOrder:
    """The order with its total. Nobody can order what has no price."""
    if order.item not in PRICES:
        raise Reject(f"there is no {order.item}")
    total = PRICES[order.item] * order.amount
    return PricedOrder(item=order.item, amount=order.amount, total=total)


def store_for(database: str) -> Store[PricedOrder]:
    """A table `orders` in PostgreSQL for its URI, else in a file of SQLite."""
    if database.startswith(("postgres://", "postgresql://")):
        return store_postgres(database, "orders", type=PricedOrder)
    return store_sqlite(database, "orders", type=PricedOrder)


def pipeline(go: Group) -> Mapping[str, object]:
    """Price → store. The routes send into `orders`."""
    orders = Channel[Message[Order]](name="orders")
    priced = Channel[Message[PricedOrder]](name="priced")
    go(each(price), orders, priced)
    go(store_for(os.environ.get("ORDERS_DATABASE", "orders.db")), priced)
    return {"orders": orders}


app = FastAPI(lifespan=lifespan(pipeline))


@app.post("/orders", status_code=201)
async def take(
    order: Order, request: Request, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Store an order. A caller that hears nothing sends it again under the same key."""
    key = idempotency_key or uuid4().hex
    try:
        outcome = await submit(request.state.orders, order, id=key, timeout=PATIENCE)
    except TimeoutError as error:
        raise HTTPException(504, str(error), {"retry-after": "1"}) from error
    if outcome.status != "stored":
        raise HTTPException(STATUS[outcome.status], outcome.reason)
    return {"id": key, "status": outcome.status}
