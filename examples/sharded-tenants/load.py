"""Orders for a while: customers, orders with their items in one transaction each, and reads that bring the token of their write.

    python3 load.py TENANT TOKEN [ORDERS]
"""

import json
import sys
import urllib.request

GATEWAY = "http://127.0.0.1:8080/-/data"


def ask(token, method, path, body=None, seen=None):
    """Sends one request; gives the rows and the token of a write."""
    request = urllib.request.Request(GATEWAY + path, method=method)
    request.add_header("authorization", f"Bearer {token}")
    if seen:
        request.add_header("portolan-token", seen)
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, data) as answer:
        text = answer.read()
        return json.loads(text) if text else None, answer.headers["portolan-token"]


def main():
    tenant, token = sys.argv[1:3]
    orders = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    customers = [{"id": number, "name": f"Customer {number} of {tenant}"} for number in range(1, 11)]
    for customer in customers:
        ask(token, "PUT", f"/customers/{customer['id']}", customer)
    for number in range(1, orders + 1):
        items = [
            {"order_id": number, "line": line, "product": f"product-{line}", "quantity": line, "cents": 250 * line}
            for line in range(1, 4)
        ]
        order = {"id": number, "customer_id": 1 + number % 10, "currency": "EUR"}
        operations = [{"do": "insert", "table": "orders", "values": order}]
        operations += [{"do": "insert", "table": "items", "values": item} for item in items]
        _, seen = ask(token, "POST", "/", operations)
        rows, _ = ask(token, "GET", f"/items?order_id=eq.{number}", seen=seen)
        assert len(rows) == 3, rows
    print(f"{tenant}: {orders} orders, each read back with its items")


if __name__ == "__main__":
    main()
