"""The tour of the README, step by step. Each step says what it does, and ends the tour when it is not so. Wants `regions.py up`."""

import json
import sys
import urllib.error
import urllib.request

# The folder is to hold nothing that the README does not speak of.
sys.dont_write_bytecode = True

from regions import follows, portolan, start, stop, until, writes

GATEWAYS = {"eu": "http://127.0.0.1:8081", "us": "http://127.0.0.1:8082", "ap": "http://127.0.0.1:8083"}


class Shop:
    """A tenant's application, as any region sees it."""

    def __init__(self):
        made = ["token", "create", "shop", "--role", "tenant-app", "--tenant", "acme", "--config", "eu.toml"]
        self.token = portolan(*made)
        for region in GATEWAYS:
            until(f"{region} knows the token", lambda: self.ask(region, "GET", "/orders")[0] != 401)

    def ask(self, region, method, path, body=None, **fields):
        """Sends one request; gives its status, its rows and its head."""
        request = urllib.request.Request(f"{GATEWAYS[region]}/-/data{path}", method=method)
        request.add_header("authorization", f"Bearer {self.token}")
        request.add_header("content-type", "application/json")
        for name, value in fields.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, json.dumps(body).encode() if body else None) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None, answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    def write(self, region, method, path, body):
        """Writes, again and again until it is taken; gives the token of the write."""

        def taken():
            status, _, head = self.ask(region, method, path, body)
            return head["portolan-token"] if status < 300 else None

        return until(f"a write in {region}", taken)

    def local(self, region, path):
        """A row as a region's own copy has it, and how old that may be; no row when there is none."""
        status, row, head = self.ask(region, "GET", path, portolan_consistency="local")
        return (row if status == 200 else None), head["portolan-staleness"]


def say(text):
    print(f"\n== {text}", flush=True)


def conflicts():
    """What us, which writes, knows to be lost."""
    lines = portolan("conflicts", "list", "main", "--json", "--config", "us.toml").splitlines()
    return [json.loads(line) for line in lines]


def read_what_you_wrote(shop):
    say("an order in eu, read in us with the token of the write: not before us has it, or by eu")
    token = shop.write("eu", "PUT", "/orders/1", {"item": "tea", "status": "open"})

    def seen():
        asked = {"portolan_consistency": "at-least", "portolan_token": token}
        status, row, head = shop.ask("us", "GET", "/orders/1", **asked)
        if status == 503:
            # It has just started, and has not reached eu yet: "try again".
            return None
        assert status == 200 and row["item"] == "tea", (status, row)
        return head["portolan-staleness"] and (row, head["portolan-staleness"])

    row, age = until("us answers by its own copy", seen)
    print(f"token {token}; us has {row}, at most {age} s old")


def write_past_a_cut(shop):
    say("the link is cut; eu goes on, and nobody else hears of it")
    stop("link")
    shop.write("eu", "PATCH", "/orders/1", {"status": "paid"})
    shop.write("eu", "PUT", "/orders/2", {"item": "coffee", "status": "paid"})
    (row, age), (none, _) = shop.local("us", "/orders/1"), shop.local("us", "/orders/2")
    assert row["status"] == "open" and none is None, (row, none)
    print(f"us has {row}, {age} s old, and no order 2")


def lose_a_region(shop):
    say("eu is lost, and us takes over as soon as eu's lease has ended for sure (some 16 seconds)")
    stop("eu")
    start("link")
    print(portolan("shard", "promote", "main", "--to", "us", "--config", "us.toml"))
    until("us writes", lambda: writes("us"))
    shop.write("us", "PATCH", "/orders/1", {"status": "cancelled"})
    print("order 1 is cancelled in us, where nobody knows that it was paid")


def bring_it_back(shop):
    say("eu is back, and gives way; what it alone had is in the ledger, also in us")
    start("eu")
    until("eu follows us", lambda: follows("eu", "us"))
    until("eu has what us has", lambda: shop.local("eu", "/orders/1")[0]["status"] == "cancelled")
    lost = until("both orders are in the ledger", lambda: (found := conflicts()) and len(found) == 2 and found)
    print(portolan("conflicts", "list", "main", "--config", "us.toml"))
    return next(entry for entry in lost if entry["lost"]["item"] == "coffee")


def restore(shop, entry):
    say("the order that nobody else knew is written back")
    print(portolan("conflicts", "show", "main", entry["conflict"], "--config", "us.toml"))
    print(portolan("conflicts", "restore", "main", entry["conflict"], "--config", "us.toml"))
    for region in GATEWAYS:
        row = until(f"{region} has order 2", lambda: shop.local(region, "/orders/2")[0])
        assert row["item"] == "coffee", row
    print("all regions have order 2 again; order 1 stays as it is: whoever looks at the list decides")


def go_back(shop):
    say("eu writes again, at once: all regions are there, and nobody waits for a lease to end")
    print(portolan("shard", "promote", "main", "--to", "eu", "--config", "eu.toml"))
    until("eu writes", lambda: writes("eu"))
    shop.write("ap", "PUT", "/orders/3", {"item": "cocoa", "status": "open"})
    for region in GATEWAYS:
        until(f"{region} has order 3", lambda: shop.local(region, "/orders/3")[0])
    print("order 3 was sent to ap, made in eu, and is everywhere")


def main():
    shop = Shop()
    read_what_you_wrote(shop)
    write_past_a_cut(shop)
    lose_a_region(shop)
    entry = bring_it_back(shop)
    restore(shop, entry)
    go_back(shop)


if __name__ == "__main__":
    main()
