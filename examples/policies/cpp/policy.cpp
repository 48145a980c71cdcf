// Spreads users over the local region's pools by a hash of tenant and user. Paths below /admin, and requests that name no
// user, go to the first pool. The same policy as plugins/dynamic-example, without configuration.
//
// Only headers of the standard library that need nothing to be linked: nothing of it is built for wasm32.

#include <cstdint>
#include <cstring>

extern "C" {
#include "routing.h"
}

namespace {

// A literal, lent to the contract's bindings.
template <size_t N>
routing_string_t lend(const char (&literal)[N]) {
  return {reinterpret_cast<uint8_t *>(const_cast<char *>(literal)), N - 1};
}

bool begins_with(const routing_option_string_t &value, routing_string_t prefix) {
  return value.is_some && value.val.len >= prefix.len && std::memcmp(value.val.ptr, prefix.ptr, prefix.len) == 0;
}

// Gives memory back at the end of its block.
template <typename T, void (*Free)(T *)>
struct Owned {
  T value{};
  ~Owned() { Free(&value); }
};

using Text = Owned<routing_string_t, routing_string_free>;
using Texts = Owned<routing_list_string_t, routing_list_string_free>;
using Values = Owned<routing_list_option_string_t, routing_list_option_string_free>;

// What `plan` left for `decide`: how many pools there are.
uint32_t pools = 1;

// FNV-1a; nothing where there is no value.
uint32_t hash(uint32_t state, const routing_option_string_t &value) {
  for (size_t i = 0; value.is_some && i < value.val.len; i++) state = (state ^ value.val.ptr[i]) * 0x01000193u;
  return state;
}

}  // namespace

extern "C" bool exports_portolan_policy_planner_plan(routing_string_t *config,
                                                     exports_portolan_policy_planner_refusal_t *err) {
  Text owned{*config}, local;
  Texts names;
  portolan_policy_facts_local_region(&local.value);
  portolan_policy_facts_pools(&local.value, &names.value);

  uint32_t answers[64];
  uint32_t count = 0;
  for (size_t i = 0; i < names.value.len && count < 64; i++)
    if (!portolan_policy_routing_answers_forward(&local.value, &names.value.ptr[i], &answers[count++], err)) return false;

  routing_list_u8_t memo = {reinterpret_cast<uint8_t *>(&count), sizeof count};
  if (!portolan_policy_draft_memo(&memo, err)) return false;
  portolan_policy_draft_list_condition_t always = {nullptr, 0};
  routing_string_t needs[] = {lend("path"), lend("tenant"), lend("header:x-user")};
  portolan_policy_draft_list_attribute_t declared = {needs, 3};
  portolan_policy_draft_list_answer_t among = {answers, count};
  uint32_t rule;
  return portolan_policy_draft_dynamic(&always, &declared, &among, &rule, err);
}

extern "C" bool exports_portolan_policy_decider_start(routing_string_t *config, routing_list_u8_t *memo,
                                                      routing_string_t *) {
  if (memo->len == sizeof pools) std::memcpy(&pools, memo->ptr, sizeof pools);
  if (pools == 0) pools = 1;
  routing_string_free(config);
  routing_list_u8_free(memo);
  return true;
}

extern "C" uint32_t exports_portolan_policy_decider_decide(uint32_t, uint64_t, uint64_t,
                                                           routing_list_option_string_t *given) {
  Values values{*given};
  if (given->len < 3) return 0;
  const auto &path = given->ptr[0], &tenant = given->ptr[1], &user = given->ptr[2];
  if (!user.is_some || begins_with(path, lend("/admin"))) return 0;
  uint32_t state = hash(0x811c9dc5u, tenant);
  state *= 0x01000193u;  // a zero byte between both names
  return hash(state, user) % pools;
}
