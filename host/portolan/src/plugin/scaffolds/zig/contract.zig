//! What of the contract's C bindings this policy uses. More is in the header that `portolan plugin bindings c` writes.

pub const Text = extern struct {
    ptr: [*]const u8,
    len: usize,

    pub fn of(text: []const u8) Text {
        return .{ .ptr = text.ptr, .len = text.len };
    }

    pub fn slice(text: Text) []const u8 {
        return text.ptr[0..text.len];
    }
};

pub fn List(comptime T: type) type {
    return extern struct {
        ptr: [*]T,
        len: usize,

        pub fn of(items: []T) @This() {
            return .{ .ptr = items.ptr, .len = items.len };
        }

        pub fn slice(list: @This()) []T {
            return list.ptr[0..list.len];
        }
    };
}

pub const OptionalText = extern struct { is_some: bool, val: Text };
pub const Condition = extern struct { attribute: Text, @"test": Text, value: Text };
pub const Share = extern struct { answer: u32, weight: u32 };
pub const Refusal = extern struct { code: u32, message: Text };

// Functions that may be refused give false, and leave the refusal in `err`.
pub extern fn portolan_policy_facts_local_region(ret: *Text) void;
pub extern fn portolan_policy_facts_regions(ret: *List(Text)) void;
pub extern fn portolan_policy_facts_pools(region: *Text, ret: *List(Text)) void;
pub extern fn portolan_policy_facts_latency_us(origin: *Text, target: *Text, ret: *u32) bool;
pub extern fn portolan_policy_routing_answers_forward(region: *Text, pool: *Text, ret: *u32, err: *Refusal) bool;
pub extern fn portolan_policy_draft_split(
    when: *List(Condition),
    to: *List(Share),
    fallback: *List(u32),
    ret: *u32,
    err: *Refusal,
) bool;
pub extern fn portolan_policy_draft_set_rule(rule: u32, key: *Text, value: *Text, err: *Refusal) bool;
%%decider
pub extern fn portolan_policy_draft_dynamic(
    when: *List(Condition),
    needs: *List(Text),
    among: *List(u32),
    ret: *u32,
    err: *Refusal,
) bool;
pub extern fn portolan_policy_draft_memo(bytes: *List(u8), err: *Refusal) bool;

// The callee owns its arguments, and frees them.
pub extern fn {{snake}}_string_free(text: *Text) void;
pub extern fn {{snake}}_list_u8_free(bytes: *List(u8)) void;
pub extern fn {{snake}}_list_option_string_free(values: *List(OptionalText)) void;
%%end
