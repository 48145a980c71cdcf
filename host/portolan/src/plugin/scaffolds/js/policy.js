// {{name}}: a routing policy of portolan.

%%decider
import { dynamic, memo, setRule, split } from 'portolan:policy/draft@0.1.0';
%%plan-only
import { setRule, split } from 'portolan:policy/draft@0.1.0';
%%end
import { latencyUs, localRegion, pools, regions } from 'portolan:policy/facts@0.1.0';
import { forward } from 'portolan:policy/routing-answers@0.1.0';

export const planner = {
  plan(config) {
    const { pool } = JSON.parse(config);
    const near = nearestFirst(regions().filter((region) => pools(region).includes(pool)));
    if (near.length === 0) throw { code: 4, message: `no region has the pool ${pool}` };
    const answers = near.map((region) => forward(region, pool));

%%decider
    // Who has a name stays in one region, whichever that is.
    memo(Uint8Array.of(answers.length));
    const named = { attribute: 'header:x-user', test: 'present', value: '' };
    setRule(dynamic([named], ['header:x-user'], answers), 'name', 'by-user');

%%end
    const [nearest, ...others] = answers;
    setRule(split([], [{ answer: nearest, weight: 1 }], others), 'name', 'everybody');
  },
};

%%decider
let count = 1;

export const decider = {
  start(config, memo) {
    count = memo[0] || 1;
  },

  decide(rule, nowMs, seed, [user]) {
    return hash(user ?? '') % count;
  },
};

%%end
// The local region, then by latency; those of unknown latency come last.
function nearestFirst(all) {
  const local = localRegion();
  const latency = (region) => (region === local ? -1 : (latencyUs(local, region) ?? 2 ** 32));
  return all
    .map((region) => ({ region, latency: latency(region) }))
    .sort((one, other) => one.latency - other.latency)
    .map(({ region }) => region);
}
%%decider

// FNV-1a over the name's UTF-8.
function hash(text) {
  let hash = 0x811c9dc5;
  for (const byte of utf8(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

// The engine has no TextEncoder.
function utf8(text) {
  const escaped = encodeURIComponent(text).match(/%..|[^%]/g) ?? [];
  return escaped.map((part) => (part.length === 3 ? parseInt(part.slice(1), 16) : part.charCodeAt(0)));
}
%%end
