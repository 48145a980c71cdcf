// {{name}}: a routing policy of portolan.

#include <stdlib.h>
#include <string.h>

#include "{{snake}}.h"

typedef {{snake}}_string_t text;
typedef exports_portolan_policy_planner_refusal_t refusal;

static text of(const char *literal) { return (text){(uint8_t *)literal, strlen(literal)}; }

static bool equal(const text *one, const text *other) {
  return one->len == other->len && memcmp(one->ptr, other->ptr, one->len) == 0;
}

// The value of a key of the configuration, where it lies. The schema allows neither escapes nor other keys.
static text value(const text *config, const char *key) {
  const char *at = (const char *)config->ptr, *end = at + config->len;
  size_t length = strlen(key);
  while (at + length + 2 < end && !(at[0] == '"' && memcmp(at + 1, key, length) == 0 && at[length + 1] == '"')) at++;
  at += length + 2;
  while (at < end && *at != '"') at++;
  const char *begin = at < end ? ++at : end;
  while (at < end && *at != '"') at++;
  return (text){(uint8_t *)begin, at - begin};
}

// The policy's own refusal; the message is the caller's to free.
static bool refuse(refusal *err, const char *why, const text *what) {
  text said = of(why);
  err->code = 4;
  err->message = (text){malloc(said.len + what->len), said.len + what->len};
  memcpy(err->message.ptr, said.ptr, said.len);
  memcpy(err->message.ptr + said.len, what->ptr, what->len);
  return false;
}

static bool has_pool(text *region, const text *pool) {
  {{snake}}_list_string_t pools;
  bool found = false;
  portolan_policy_facts_pools(region, &pools);
  for (size_t i = 0; i < pools.len; i++) found |= equal(&pools.ptr[i], pool);
  {{snake}}_list_string_free(&pools);
  return found;
}

// The local region is nearest; those of unknown latency come last.
static uint64_t latency(text *local, text *region) {
  uint32_t known;
  if (equal(local, region)) return 0;
  return portolan_policy_facts_latency_us(local, region, &known) ? 1 + (uint64_t)known : UINT64_MAX;
}

// Leaves the regions with the pool at the beginning of the list, the nearest first; gives their number.
static size_t nearest_first(text *local, {{snake}}_list_string_t *regions, const text *pool) {
  uint64_t *latencies = malloc(regions->len * sizeof *latencies);
  size_t count = 0;
  for (size_t i = 0; i < regions->len; i++) {
    text region = regions->ptr[i];
    if (!has_pool(&region, pool)) continue;
    uint64_t far = latency(local, &region);
    size_t place = count++;
    regions->ptr[i] = regions->ptr[place];
    for (; place > 0 && latencies[place - 1] > far; place--) {
      latencies[place] = latencies[place - 1];
      regions->ptr[place] = regions->ptr[place - 1];
    }
    latencies[place] = far;
    regions->ptr[place] = region;
  }
  free(latencies);
  return count;
}

static bool name_rule(uint32_t rule, const char *name, refusal *err) {
  text key = of("name"), called = of(name);
  return portolan_policy_draft_set_rule(rule, &key, &called, err);
}

%%decider
// Who has a name stays in one region, whichever that is.
static bool by_user(portolan_policy_draft_list_answer_t *answers, refusal *err) {
  uint8_t count = answers->len;
  {{snake}}_list_u8_t memo = {&count, 1};
  text needs[] = {of("header:x-user")};
  portolan_policy_draft_condition_t named = {of("header:x-user"), of("present"), of("")};
  portolan_policy_draft_list_condition_t when = {&named, 1};
  portolan_policy_draft_list_attribute_t declared = {needs, 1};
  uint32_t rule;
  return portolan_policy_draft_memo(&memo, err) &&
         portolan_policy_draft_dynamic(&when, &declared, answers, &rule, err) && name_rule(rule, "by-user", err);
}

%%end
static bool write_plan(portolan_policy_draft_list_answer_t *answers, refusal *err) {
%%decider
  if (!by_user(answers, err)) return false;
%%end
  portolan_policy_draft_list_condition_t always = {NULL, 0};
  portolan_policy_draft_share_t nearest = {answers->ptr[0], 1};
  portolan_policy_draft_list_share_t to = {&nearest, 1};
  portolan_policy_draft_list_answer_t others = {answers->ptr + 1, answers->len - 1};
  uint32_t rule;
  return portolan_policy_draft_split(&always, &to, &others, &rule, err) && name_rule(rule, "everybody", err);
}

bool exports_portolan_policy_planner_plan(text *config, refusal *err) {
  text pool = value(config, "pool"), local;
  {{snake}}_list_string_t regions;
  portolan_policy_facts_local_region(&local);
  portolan_policy_facts_regions(&regions);

  size_t count = nearest_first(&local, &regions, &pool);
  portolan_policy_draft_list_answer_t answers = {malloc((count + 1) * sizeof(uint32_t)), count};
  bool good = count > 0 || refuse(err, "no region has the pool ", &pool);
  for (size_t i = 0; good && i < count; i++)
    good = portolan_policy_routing_answers_forward(&regions.ptr[i], &pool, &answers.ptr[i], err);
  good = good && write_plan(&answers, err);

  free(answers.ptr);
  {{snake}}_list_string_free(&regions);
  {{snake}}_string_free(&local);
  {{snake}}_string_free(config);
  return good;
}
%%decider

// What `plan` left for `decide`: how many regions there are.
static uint32_t regions = 1;

bool exports_portolan_policy_decider_start(text *config, {{snake}}_list_u8_t *memo, text *err) {
  (void)err;
  if (memo->len == 1 && memo->ptr[0] > 0) regions = memo->ptr[0];
  {{snake}}_list_u8_free(memo);
  {{snake}}_string_free(config);
  return true;
}

uint32_t exports_portolan_policy_decider_decide(uint32_t rule, uint64_t now_ms, uint64_t seed,
                                                {{snake}}_list_option_string_t *values) {
  (void)rule, (void)now_ms, (void)seed;
  uint32_t hash = 0x811c9dc5u;  // FNV-1a
  if (values->len > 0 && values->ptr[0].is_some)
    for (size_t i = 0; i < values->ptr[0].val.len; i++) hash = (hash ^ values->ptr[0].val.ptr[i]) * 0x01000193u;
  {{snake}}_list_option_string_free(values);
  return hash % regions;
}
%%end
