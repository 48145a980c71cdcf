//! {{name}}: a routing policy of portolan.

const std = @import("std");
const c = @import("contract.zig");

const List = c.List;
const Refusal = c.Refusal;
const Text = c.Text;

const gpa = std.heap.c_allocator;

// The host has said why, where the caller looks for it.
fn check(good: bool) error{Refused}!void {
    if (!good) return error.Refused;
}

fn refuse(err: *Refusal, why: []const u8, what: []const u8) error{Refused} {
    const message = std.mem.concat(gpa, u8, &.{ why, what }) catch why;
    err.* = .{ .code = 4, .message = .of(message) };
    return error.Refused;
}

export fn exports_portolan_policy_planner_plan(config: *Text, err: *Refusal) bool {
    plan(config.slice(), err) catch |failure| {
        if (failure != error.Refused) refuse(err, @errorName(failure), "") catch {};
        return false;
    };
    return true;
}

// An instance plans once: what is left of its memory goes with it.
fn plan(config: []const u8, err: *Refusal) !void {
    const parsed = try std.json.parseFromSlice(struct { pool: []const u8 }, gpa, config, .{});
    const pool = parsed.value.pool;

    const near = try nearestFirst(pool);
    if (near.len == 0) return refuse(err, "no region has the pool ", pool);
    const answers = try gpa.alloc(u32, near.len);
    for (near, answers) |*region, *answer| {
        var wanted: Text = .of(pool);
        try check(c.portolan_policy_routing_answers_forward(&region.name, &wanted, answer, err));
    }

%%decider
    try byUser(answers, err);
%%end
    var always: List(c.Condition) = .of(&.{});
    var nearest = [_]c.Share{.{ .answer = answers[0], .weight = 1 }};
    var to: List(c.Share) = .of(&nearest);
    var others: List(u32) = .of(answers[1..]);
    var rule: u32 = undefined;
    try check(c.portolan_policy_draft_split(&always, &to, &others, &rule, err));
    try nameRule(rule, "everybody", err);
}

%%decider
// Who has a name stays in one region, whichever that is.
fn byUser(answers: []u32, err: *Refusal) !void {
    var count = [_]u8{@intCast(answers.len)};
    var left: List(u8) = .of(&count);
    try check(c.portolan_policy_draft_memo(&left, err));

    var named = [_]c.Condition{.{ .attribute = .of("header:x-user"), .@"test" = .of("present"), .value = .of("") }};
    var when: List(c.Condition) = .of(&named);
    var need = [_]Text{.of("header:x-user")};
    var needs: List(Text) = .of(&need);
    var among: List(u32) = .of(answers);
    var rule: u32 = undefined;
    try check(c.portolan_policy_draft_dynamic(&when, &needs, &among, &rule, err));
    try nameRule(rule, "by-user", err);
}

%%end
fn nameRule(rule: u32, name: []const u8, err: *Refusal) !void {
    var key: Text = .of("name");
    var called: Text = .of(name);
    try check(c.portolan_policy_draft_set_rule(rule, &key, &called, err));
}

const Region = struct {
    name: Text,
    latency: u64,

    fn nearer(_: void, one: Region, other: Region) bool {
        return one.latency < other.latency;
    }
};

// The regions with the pool: the local one, then by latency; those of unknown latency come last.
fn nearestFirst(pool: []const u8) ![]Region {
    var local: Text = undefined;
    var all: List(Text) = undefined;
    c.portolan_policy_facts_local_region(&local);
    c.portolan_policy_facts_regions(&all);

    const near = try gpa.alloc(Region, all.len);
    var count: usize = 0;
    for (all.slice()) |*name| {
        if (!hasPool(name, pool)) continue;
        var known: u32 = undefined;
        const latency = if (std.mem.eql(u8, local.slice(), name.slice()))
            0
        else if (c.portolan_policy_facts_latency_us(&local, name, &known))
            1 + @as(u64, known)
        else
            std.math.maxInt(u64);
        near[count] = .{ .name = name.*, .latency = latency };
        count += 1;
    }
    std.mem.sort(Region, near[0..count], {}, Region.nearer);
    return near[0..count];
}

fn hasPool(region: *Text, pool: []const u8) bool {
    var pools: List(Text) = undefined;
    c.portolan_policy_facts_pools(region, &pools);
    for (pools.slice()) |name| {
        if (std.mem.eql(u8, name.slice(), pool)) return true;
    }
    return false;
}
%%decider

// What `plan` left for `decide`: how many regions there are.
var regions: u32 = 1;

export fn exports_portolan_policy_decider_start(config: *Text, memo: *List(u8), _: *Text) bool {
    if (memo.len == 1 and memo.ptr[0] > 0) regions = memo.ptr[0];
    c.{{snake}}_list_u8_free(memo);
    c.{{snake}}_string_free(config);
    return true;
}

export fn exports_portolan_policy_decider_decide(_: u32, _: u64, _: u64, values: *List(c.OptionalText)) u32 {
    var hash: std.hash.Fnv1a_32 = .init();
    if (values.len > 0 and values.ptr[0].is_some) hash.update(values.ptr[0].val.slice());
    c.{{snake}}_list_option_string_free(values);
    return hash.final() % regions;
}
%%end
