"""The network between the regions' logs: hands on what comes, until it is stopped. Usage: link.py"""

import asyncio

# Where regions reach each other's logs, and where those listen.
LINES = [
    ("127.0.0.1:7451", "127.0.0.1:7441"),
    ("127.0.0.1:7452", "127.0.0.1:7442"),
    ("127.0.0.1:7453", "127.0.0.1:7443"),
]


async def carry(reader, writer):
    """Hands on one direction until its end."""
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def lead(reader, writer, address):
    """Joins a connection to another one."""
    try:
        there = await asyncio.open_connection(*address.split(":"))
    except OSError:
        writer.close()
        return
    await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))


async def main():
    servers = []
    for here, there in LINES:
        host, port = here.split(":")
        servers.append(await asyncio.start_server(lambda *ends, to=there: lead(*ends, to), host, port))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
