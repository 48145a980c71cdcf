// Spreads users over the local region's pools by a hash of tenant and user. Paths below /admin, and requests that name no
// user, go to the first pool. The same policy as plugins/dynamic-example, without configuration.

#include <stdlib.h>
#include <string.h>

#include "routing_packed.h"

// What `plan` left for `decide`: how many pools there are.
static uint32_t pools = 1;

static routing_packed_string_t text(const char *from) {
  routing_packed_string_t string = {(uint8_t *)from, strlen(from)};
  return string;
}

bool exports_portolan_policy_planner_plan(routing_packed_string_t *config,
                                          exports_portolan_policy_planner_refusal_t *err) {
  routing_packed_string_free(config);

  routing_packed_string_t local;
  routing_packed_list_string_t names;
  portolan_policy_facts_local_region(&local);
  portolan_policy_facts_pools(&local, &names);

  uint32_t *answers = malloc(names.len * sizeof(uint32_t));
  bool good = answers != NULL || names.len == 0;
  for (size_t i = 0; good && i < names.len; i++)
    good = portolan_policy_routing_answers_forward(&local, &names.ptr[i], &answers[i], err);

  uint32_t count = names.len;
  if (good) {
    routing_packed_list_u8_t memo = {(uint8_t *)&count, sizeof count};
    good = portolan_policy_draft_memo(&memo, err);
  }
  if (good) {
    portolan_policy_draft_list_condition_t always = {NULL, 0};
    routing_packed_string_t needs[] = {text("path"), text("tenant"), text("header:x-user")};
    portolan_policy_draft_list_attribute_t declared = {needs, 3};
    portolan_policy_draft_list_answer_t among = {answers, names.len};
    uint32_t rule;
    good = portolan_policy_draft_dynamic(&always, &declared, &among, &rule, err);
  }
  free(answers);
  routing_packed_list_string_free(&names);
  routing_packed_string_free(&local);
  return good;
}

bool exports_portolan_policy_packed_decider_start(routing_packed_string_t *config,
                                                  routing_packed_list_u8_t *memo,
                                                  routing_packed_string_t *err) {
  (void)err;
  if (memo->len == sizeof pools) memcpy(&pools, memo->ptr, sizeof pools);
  if (pools == 0) pools = 1;
  routing_packed_string_free(config);
  routing_packed_list_u8_free(memo);
  return true;
}

// A value of the request; without bytes where the request has none.
typedef struct {
  const uint8_t *ptr;
  uint32_t len;
} value_t;

// All values lie in one piece, after a table of where they begin and how long they are.
static value_t value(const routing_packed_list_u8_t *values, uint32_t place) {
  uint32_t count, entry[2] = {0, 0};
  memcpy(&count, values->ptr, sizeof count);
  if (place < count) memcpy(entry, values->ptr + 4 + 8 * place, sizeof entry);
  value_t found = {entry[0] == 0 ? NULL : values->ptr + entry[0], entry[1]};
  return found;
}

// FNV-1a.
static uint32_t hash(uint32_t state, value_t text) {
  const uint8_t *end = text.ptr + text.len;
  for (const uint8_t *at = text.ptr; at != end; at++) state = (state ^ *at) * 0x01000193u;
  return state;
}

uint32_t exports_portolan_policy_packed_decider_decide(uint32_t rule, uint64_t now_ms, uint64_t seed,
                                                       routing_packed_list_u8_t *values) {
  (void)rule, (void)now_ms, (void)seed;
  value_t path = value(values, 0), tenant = value(values, 1), user = value(values, 2);
  bool admin = path.len >= 6 && memcmp(path.ptr, "/admin", 6) == 0;

  uint32_t place = 0;
  if (user.ptr != NULL && !admin) {
    uint32_t state = hash(0x811c9dc5u, tenant);
    state *= 0x01000193u;  // a zero byte between both names
    place = hash(state, user) % pools;
  }
  routing_packed_list_u8_free(values);
  return place;
}
