// Spreads users over the local region's pools by a hash of tenant and user. Paths below /admin, and requests that name no
// user, go to the first pool. The same policy as plugins/dynamic-example, without configuration.

import { localRegion, pools } from 'portolan:policy/facts@0.1.0';
import { forward } from 'portolan:policy/routing-answers@0.1.0';
import { dynamic, memo } from 'portolan:policy/draft@0.1.0';

export const planner = {
  plan(config) {
    const local = localRegion();
    const among = pools(local).map((pool) => forward(local, pool));
    memo(Uint8Array.of(among.length));
    dynamic([], ['path', 'tenant', 'header:x-user'], among);
  },
};

let count = 1;

export const decider = {
  start(config, memo) {
    count = memo[0] || 1;
  },

  decide(rule, nowMs, seed, [path, tenant, user]) {
    if (user === undefined || user === null || (path ?? '').startsWith('/admin')) return 0;
    return fnv(`${tenant ?? ''}\0${user}`) % count;
  },
};

// FNV-1a; names of users are ASCII here.
function fnv(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}
