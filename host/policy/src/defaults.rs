//! The engine's limits and times, with their reasons. Figures of guests: one small policy in each language, built with
//! the language's usual tool.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_core::topology::BreakerLimits;

use crate::account::Budget;

/// The largest component. A Rust policy has some ten KiB, a JavaScript one 1.1 to 1.6 MiB, a Go one up to 5.4 MB, a
/// Python one 18 MB; the last wants an operator who raises this.
pub const COMPONENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest artefact: compiled code has two to seven times the component's size.
pub const ARTEFACT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Functions of a component. QuickJS has 3,000, Go's runtime with its library 8,000.
pub const FUNCTIONS_MAX: u32 = 50_000;
/// Bytes of one function. The compiler's time grows faster than a function does; the main loop of an interpreter has
/// about 100 KiB.
pub const BODY_BYTES_MAX: usize = 512 * 1024;
/// Levels of modules and components in each other. Tools make two; adapters make three.
pub const NESTING_MAX: usize = 8;
/// Levels of nested component types. The contract has four.
pub const TYPE_DEPTH_MAX: usize = 24;
/// Bytes of one section of types. The contract's have about 2 KiB; the parser recurses within a section.
pub const TYPE_SECTION_BYTES_MAX: usize = 64 * 1024;
/// Imports, and exports, of a component. The contract has a dozen interfaces.
pub const INTERFACES_MAX: usize = 1_024;
/// Bytes of golden vectors: some hundreds of them.
pub const VECTORS_BYTES_MAX: usize = 256 * 1024;
/// Golden vectors of a component. Each needs a plan of its own unless configuration and facts are the last one's.
pub const VECTORS_MAX: usize = 256;
/// Wall time of all golden vectors of a component.
pub const VECTORS_WALL_MAX: Duration = Duration::from_secs(10);
/// Stack of the thread that looks at a component: deep enough for a section of types that only nests.
pub const SCREENING_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Fuel of one `propose`: about 20 ms of straight code. A decision about regions is waited for.
pub const PROPOSE_FUEL: u64 = 40_000_000;
/// Processor time of one `propose`, the host's functions included, which cost no fuel.
pub const PROPOSE_DEADLINE: Duration = Duration::from_millis(20);
/// Wall time of one `propose`: a machine that fails is a busy one, and a thread that waits for a processor is not the policy's fault. As
/// long as from one decision to the next.
pub const PROPOSE_WALL_MAX: Duration = Duration::from_millis(500);
/// Memory of one instance while it proposes.
pub const PROPOSE_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Compilations at the same time.
pub const COMPILES_MAX: usize = 2;
/// Wall time of one compilation: JavaScript takes below a second, Python about five, on a machine at rest.
pub const COMPILE_WALL_MAX: Duration = Duration::from_secs(60);
/// Processor seconds of one compilation, as the kernel counts them over all threads.
pub const COMPILE_CPU_SECONDS_MAX: u64 = 60;
/// Address space of a compilation. The compiler on a large function is the worst case that is to be survived.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 3 * 1024 * 1024 * 1024;
/// Compiled code on disk.
pub const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Core instances of a component: its own, and what ties it to its imports; adapters add some. Python's libraries make 38.
pub const CORE_INSTANCES_MAX: usize = 48;
/// Memories of a component: one, and one of each adapter; a JavaScript guest has three. Their bytes are summed.
pub const MEMORIES_MAX: usize = 4;
/// Tables of a component.
pub const TABLES_MAX: usize = 8;
/// Table entries of one instance, summed over its tables. Python needs some 40,000.
pub const TABLE_ELEMENTS_MAX: usize = 200_000;
/// Bytes of memory that a component begins with. Python begins with 12.3 MiB.
pub const MEMORY_INITIAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Memory of one instance, summed over its memories, while it plans.
pub const PLAN_MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same while it decides.
pub const DECIDE_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Stack of a guest's code.
pub const GUEST_STACK_BYTES: usize = 512 * 1024;
/// Bytes that one call into the host may bring along, all its strings and lists together.
pub const HOSTCALL_BYTES_MAX: usize = 1024 * 1024;
/// Instance slots that are tried for; halved until the address space has them.
pub const POOL_SLOTS: NonZeroU32 = NonZeroU32::new(10_000).expect("ten thousand is not zero");
/// The fewest slots that are worth starting with.
pub const POOL_SLOTS_MIN: u32 = 16;
/// Bytes of each slot that stay in memory between uses; the rest goes back to the system. 64 to 128 KiB is what a small
/// C or Zig guest begins with.
pub const RESIDENT_BYTES: usize = 128 * 1024;

/// How often epochs tick. Deadlines are counted in ticks.
pub const TICK: Duration = Duration::from_millis(1);
/// Fuel of instantiation and of `start`.
pub const START_FUEL: u64 = 500_000_000;
/// Processor time of instantiation and of `start`.
pub const START_DEADLINE: Duration = Duration::from_secs(1);
/// Fuel of one `plan`: about a second of straight code.
pub const PLAN_FUEL: u64 = 2_000_000_000;
/// Processor time of one `plan`, should fuel not stop it before.
pub const PLAN_DEADLINE: Duration = Duration::from_secs(5);
/// How much longer a start or a plan may take when others have the processors: then it ends whoever had them.
pub const WALL_PER_PROCESSOR: u32 = 10;
/// Bytes of a version that a resolver makes.
pub const MERGED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Fuel of one `decide`: about a millisecond of straight code.
pub const DECIDE_FUEL: u64 = 2_000_000;
/// Wall time of one `decide`: fuel stops it first, unless the thread itself was held up.
pub const DECIDE_DEADLINE: Duration = Duration::from_millis(50);
/// Processor time that a `decide` still has then, which a thread that was held up needs little of.
pub const DECIDE_GRACE: Duration = Duration::from_millis(10);
/// The part of a data thread's time that all guests together may take. What a window has saved up comes on top, so that in
/// no second it is more than a quarter.
pub const GUEST_SHARE_PERCENT: u32 = 22;
/// The part that one tenant's decider may take.
pub const TENANT_SHARE_PERCENT: u32 = 5;
/// The window over which shares are counted.
pub const SHARE_WINDOW: Duration = Duration::from_millis(100);
/// Over what the part of guests in a thread's time is measured.
pub const OCCUPANCY_WINDOW: Duration = Duration::from_secs(1);
/// What a tenant may use on one node, unless its operator says otherwise. Fuel: a tenth of one processor, with five seconds
/// of it saved up. Memory: a warm instance of an interpreter on each of 16 threads. Plans: one a second, and a twelfth of a
/// processor for them.
pub const TENANT_BUDGET: Budget = Budget {
    fuel_burst: 1_000_000_000,
    fuel_per_second: 200_000_000,
    memory_bytes: 64 * 1024 * 1024,
    plan_burst: 30,
    plan_fuel_per_minute: 10_000_000_000,
    plans_per_minute: 60,
    warm_instances: 64,
};
/// A data thread takes a tenant's fuel in so many portions of all that it may use at once: few enough that threads seldom
/// meet, and small enough that what lies unused on one thread is not missed on another.
pub const FUEL_PORTIONS: i64 = 64;
/// The smallest portion: some hundred small calls.
pub const FUEL_PORTION_MIN: i64 = 100_000;
/// A demoted tenant is asked again when so much of its burst is back: less would demote it again at once.
pub const RESUME_PERCENT: i64 = 25;
/// A tenant's component that is larger answers no dynamic rules without a grant: it is an interpreter, whose calls cost
/// 10 to 50 µs and whose instances hold 350 KiB and more.
pub const TENANT_DECIDER_BYTES_MAX: usize = 256 * 1024;

/// Warm instances of a process; each takes some memory mappings, of the 65,530 that Linux gives a process by default.
pub const WARM_INSTANCES_MAX: usize = 8_192;
/// Memory of all warm instances together.
pub const WARM_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The part of both that only the operator's policy may use.
pub const OPERATOR_RESERVE_PERCENT: usize = 25;
/// An operator's warm instance is replaced after a number of calls drawn between these two, so that no policy can come
/// to count on living.
pub const RECYCLE_OPERATOR_CALLS: (u32, u32) = (50_000, 100_000);
/// The same for a tenant's.
pub const RECYCLE_TENANT_CALLS: (u32, u32) = (5_000, 10_000);
/// One call in so many, on average, is repeated on a fresh instance, to see that the policy is a function.
pub const PURITY_CHECK_EVERY: NonZeroU32 = NonZeroU32::new(1_024).expect("1,024 is not zero");
/// When a failing decider is left alone: a policy that traps traps again.
pub const BREAKER: BreakerLimits =
    BreakerLimits { failures: 3, pause_min: Duration::from_millis(500), pause_max: Duration::from_secs(60) };

/// Plans in a row that changing facts may cause in one slot.
pub const REPLAN_BURST: u32 = 10;
/// After those, one in so long a time.
pub const REPLAN_EVERY: Duration = Duration::from_secs(1);
/// The first pause after a refusal that may pass.
pub const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// After a refusal, changed facts lead to another try no sooner than this.
pub const RETRY_ON_CHANGE: Duration = Duration::from_millis(250);
/// How much later than others threads that plan are served by the kernel.
pub const PLAN_THREAD_NICE: i32 = 10;
/// Stack of a thread that plans: the guest's and the host's.
pub const PLAN_THREAD_STACK_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one log line of a policy.
pub const LOG_LINE_BYTES_MAX: usize = 1_024;
/// Log lines of one call.
pub const LOG_LINES_PER_CALL: u32 = 32;
/// Log lines of one slot in a second.
pub const LOG_LINES_PER_SECOND: u32 = 50;
/// Log lines of one slot that are kept for `portolan status`.
pub const LOG_LINES_KEPT: usize = 64;
/// Calls of one slot that ended badly and are kept with their frames.
pub const FAULTS_KEPT: usize = 16;
/// Frames of one such call.
pub const FRAMES_KEPT: usize = 20;
/// Bytes of a function's name. Those of generic code grow long.
pub const FRAME_BYTES_MAX: usize = 256;
/// Refusals of one slot that are kept.
pub const REFUSALS_KEPT: usize = 32;
/// Bytes of a policy's configuration.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a configuration's schema.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// How often a sharding policy is asked for a plan, each time with half of the line of hashes to give away, until the plan moves no
/// more tenants than it may: from all of a line to less than a thirtieth.
pub const REBALANCE_TRIES: u32 = 6;
