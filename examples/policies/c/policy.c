// Spreads users over the local region's pools by a hash of tenant and user. Paths below /admin, and requests that name no
// user, go to the first pool. The same policy as plugins/dynamic-example, without configuration.

#include <stdlib.h>
#include <string.h>

#include "routing.h"

// What `plan` left for `decide`: how many pools there are.
static uint32_t pools = 1;

static routing_string_t text(const char *from) {
  routing_string_t string = {(uint8_t *)from, strlen(from)};
  return string;
}

bool exports_portolan_policy_planner_plan(routing_string_t *config,
                                          exports_portolan_policy_planner_refusal_t *err) {
  routing_string_free(config);

  routing_string_t local;
  routing_list_string_t names;
  portolan_policy_facts_local_region(&local);
  portolan_policy_facts_pools(&local, &names);

  uint32_t *answers = malloc(names.len * sizeof(uint32_t));
  bool good = answers != NULL || names.len == 0;
  for (size_t i = 0; good && i < names.len; i++)
    good = portolan_policy_routing_answers_forward(&local, &names.ptr[i], &answers[i], err);

  uint32_t count = names.len;
  if (good) {
    routing_list_u8_t memo = {(uint8_t *)&count, sizeof count};
    good = portolan_policy_draft_memo(&memo, err);
  }
  if (good) {
    portolan_policy_draft_list_condition_t always = {NULL, 0};
    routing_string_t needs[] = {text("path"), text("tenant"), text("header:x-user")};
    portolan_policy_draft_list_attribute_t declared = {needs, 3};
    portolan_policy_draft_list_answer_t among = {answers, names.len};
    uint32_t rule;
    good = portolan_policy_draft_dynamic(&always, &declared, &among, &rule, err);
  }
  free(answers);
  routing_list_string_free(&names);
  routing_string_free(&local);
  return good;
}

bool exports_portolan_policy_decider_start(routing_string_t *config, routing_list_u8_t *memo,
                                           routing_string_t *err) {
  (void)err;
  if (memo->len == sizeof pools) memcpy(&pools, memo->ptr, sizeof pools);
  if (pools == 0) pools = 1;
  routing_string_free(config);
  routing_list_u8_free(memo);
  return true;
}

// FNV-1a.
static uint32_t hash(uint32_t state, const routing_string_t *string) {
  for (size_t i = 0; i < string->len; i++) state = (state ^ string->ptr[i]) * 0x01000193u;
  return state;
}

uint32_t exports_portolan_policy_decider_decide(uint32_t rule, uint64_t now_ms, uint64_t seed,
                                                routing_list_option_string_t *values) {
  (void)rule, (void)now_ms, (void)seed;
  if (values->len < 3) {
    routing_list_option_string_free(values);
    return 0;
  }
  routing_option_string_t *path = &values->ptr[0], *tenant = &values->ptr[1], *user = &values->ptr[2];
  bool admin = path->is_some && path->val.len >= 6 && memcmp(path->val.ptr, "/admin", 6) == 0;

  uint32_t place = 0;
  if (user->is_some && !admin) {
    uint32_t state = 0x811c9dc5u;
    if (tenant->is_some) state = hash(state, &tenant->val);
    state *= 0x01000193u;  // a zero byte between both names
    place = hash(state, &user->val) % pools;
  }
  routing_list_option_string_free(values);
  return place;
}
