"""{{name}}: a routing policy of portolan."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import draft, facts, routing_answers
%%decider
from wit_world.imports.types import Condition, Refusal, Share
%%plan-only
from wit_world.imports.types import Refusal, Share
%%end


class Planner(exports.Planner):
    def plan(self, config: str) -> None:
        pool = json.loads(config)["pool"]
        regions = [region for region in facts.regions() if pool in facts.pools(region)]
        if not regions:
            raise Err(Refusal(4, f"no region has the pool {pool}"))
        # A refusal of the gateway is raised, and what is raised becomes this policy's own.
        answers = [routing_answers.forward(region, pool) for region in nearest_first(regions)]

%%decider
        # Who has a name stays in one region, whichever that is.
        draft.memo(bytes([len(answers)]))
        rule = draft.dynamic([Condition("header:x-user", "present", "")], ["header:x-user"], answers)
        draft.set_rule(rule, "name", "by-user")

%%end
        rule = draft.split([], [Share(answers[0], 1)], answers[1:])
        draft.set_rule(rule, "name", "everybody")


%%decider
class Decider(exports.Decider):
    count = 1

    def start(self, config: str, memo: bytes) -> None:
        Decider.count = memo[0] or 1

    def decide(self, rule: int, now_ms: int, seed: int, values: list[str | None]) -> int:
        return fnv((values[0] or "").encode()) % Decider.count


%%end
def nearest_first(regions: list[str]) -> list[str]:
    """The local region, then by latency; those of unknown latency come last."""
    local = facts.local_region()

    def latency(region: str) -> int:
        if region == local:
            return -1
        known = facts.latency_us(local, region)
        return 1 << 32 if known is None else known

    return sorted(regions, key=latency)
%%decider


def fnv(text: bytes) -> int:
    """FNV-1a."""
    hash = 0x811C9DC5
    for byte in text:
        hash = (hash ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hash
%%end
