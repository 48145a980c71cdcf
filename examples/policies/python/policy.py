# Spreads users over the local region's pools by a hash of tenant and user. Paths below /admin, and requests that name no
# user, go to the first pool. The same policy as plugins/dynamic-example, without configuration.

from wit_world import exports
from wit_world.imports import draft, facts, routing_answers


class Planner(exports.Planner):
    def plan(self, config: str) -> None:
        # A refusal of the host is raised, and what is raised becomes this policy's own refusal.
        local = facts.local_region()
        among = [routing_answers.forward(local, pool) for pool in facts.pools(local)]
        draft.memo(bytes([len(among)]))
        draft.dynamic([], ["path", "tenant", "header:x-user"], among)


class Decider(exports.Decider):
    count = 1

    def start(self, config: str, memo: bytes) -> None:
        Decider.count = memo[0] or 1

    def decide(self, rule: int, now_ms: int, seed: int, values: list[str | None]) -> int:
        path, tenant, user = values
        if user is None or (path or "").startswith("/admin"):
            return 0
        return fnv(f"{tenant or ''}\0{user}".encode()) % Decider.count


# FNV-1a.
def fnv(text: bytes) -> int:
    hash = 0x811C9DC5
    for byte in text:
        hash = (hash ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hash
