//! What the engine is told: where compiled code is kept, how it is compiled, and every limit on a guest.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use portolan_core::plan;
use portolan_core::topology::BreakerLimits;

use crate::defaults;

/// The settings of an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes that compiled code may take on disk; the oldest goes first.
    pub cache_bytes_max: u64,
    /// Where compiled code is kept; nowhere when absent.
    pub cache_dir: Option<PathBuf>,
    /// Who compiles.
    pub compile: Compile,
    /// Threads that ask deciders.
    pub data_threads: NonZeroUsize,
    /// What guests may use.
    pub limits: Limits,
    /// Instances that may exist at the same time; fewer when the address space has no room for so many.
    pub pool_slots: NonZeroU32,
}

/// Who compiles a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compile {
    /// A process of its own, which can be killed: the given program, which must run [`crate::compile_child`] with the
    /// arguments that follow the given ones.
    Child {
        /// The program.
        program: PathBuf,
        /// Its first arguments.
        args: Vec<OsString>,
    },
    /// This process. For tools that a developer runs on his own component.
    InProcess,
}

/// What guests may use. [`Limits::standard`] gives the values of [`crate::defaults`], with their reasons.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of compiled code.
    pub artefact_bytes_max: usize,
    /// Bytes of one function's body.
    pub body_bytes_max: usize,
    /// When a failing decider is left alone.
    pub breaker: BreakerLimits,
    /// Processor time of one compilation, in seconds.
    pub compile_cpu_seconds_max: u64,
    /// Address space of one compilation.
    pub compile_memory_bytes_max: u64,
    /// Wall time of one compilation.
    pub compile_wall_max: Duration,
    /// Bytes of a component.
    pub component_bytes_max: usize,
    /// Bytes of a policy's configuration.
    pub config_bytes_max: usize,
    /// Wall time of one `decide`.
    pub decide_deadline: Duration,
    /// Units of fuel of one `decide`.
    pub decide_fuel: u64,
    /// Bytes of all memories of an instance that decides.
    pub decide_memory_bytes_max: usize,
    /// Functions of a component.
    pub functions_max: u32,
    /// The part of a data thread's time that all guests together may take.
    pub guest_share_percent: u32,
    /// Core instances of a component.
    pub instances_max: usize,
    /// Log lines of one call.
    pub log_lines_per_call: u32,
    /// Log lines of one slot in a second.
    pub log_lines_per_second: u32,
    /// Memories of a component.
    pub memories_max: usize,
    /// Bytes of memory that a component may begin with.
    pub memory_initial_bytes_max: u64,
    /// Modules and components within each other.
    pub nesting_max: usize,
    /// The part of warm instances and their bytes that no tenant can take.
    pub operator_reserve_percent: usize,
    /// What a plan may hold.
    pub plan: plan::Limits,
    /// Processor time of one `plan`.
    pub plan_deadline: Duration,
    /// Units of fuel of one `plan`.
    pub plan_fuel: u64,
    /// Bytes of all memories of an instance that plans.
    pub plan_memory_bytes_max: usize,
    /// Processor time of one `propose`.
    pub propose_deadline: Duration,
    /// Units of fuel of one `propose`.
    pub propose_fuel: u64,
    /// Bytes of all memories of an instance that proposes.
    pub propose_memory_bytes_max: usize,
    /// Wall time of one `propose`.
    pub propose_wall_max: Duration,
    /// About one call in so many is repeated on a fresh instance.
    pub purity_check_every: NonZeroU32,
    /// An operator's warm instance is replaced after a number of calls between these two.
    pub recycle_operator_calls: (u32, u32),
    /// The same for a tenant's.
    pub recycle_tenant_calls: (u32, u32),
    /// Plans in a row that changing facts may cause.
    pub replan_burst: u32,
    /// After those, one in so long a time.
    pub replan_every: Duration,
    /// Bytes of each instance slot that stay in memory between uses.
    pub resident_bytes: usize,
    /// Bytes of a configuration's schema.
    pub schema_bytes_max: usize,
    /// Processor time of instantiation and of `start`.
    pub start_deadline: Duration,
    /// Units of fuel of instantiation and of `start`.
    pub start_fuel: u64,
    /// Elements of all tables of an instance.
    pub table_elements_max: usize,
    /// Tables of an instance.
    pub tables_max: usize,
    /// A tenant's component may answer dynamic rules up to this size; larger ones need a grant.
    pub tenant_decider_bytes_max: usize,
    /// The part of a data thread's time that one tenant's decider may take.
    pub tenant_share_percent: u32,
    /// Levels of nested component types.
    pub type_depth_max: usize,
    /// Bytes of all warm instances.
    pub warm_bytes_max: usize,
    /// Warm instances.
    pub warm_instances_max: usize,
}

impl Limits {
    /// The values of [`crate::defaults`].
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            artefact_bytes_max: defaults::ARTEFACT_BYTES_MAX,
            body_bytes_max: defaults::BODY_BYTES_MAX,
            breaker: defaults::BREAKER,
            compile_cpu_seconds_max: defaults::COMPILE_CPU_SECONDS_MAX,
            compile_memory_bytes_max: defaults::COMPILE_MEMORY_BYTES_MAX,
            compile_wall_max: defaults::COMPILE_WALL_MAX,
            component_bytes_max: defaults::COMPONENT_BYTES_MAX,
            config_bytes_max: defaults::CONFIG_BYTES_MAX,
            decide_deadline: defaults::DECIDE_DEADLINE,
            decide_fuel: defaults::DECIDE_FUEL,
            decide_memory_bytes_max: defaults::DECIDE_MEMORY_BYTES_MAX,
            functions_max: defaults::FUNCTIONS_MAX,
            guest_share_percent: defaults::GUEST_SHARE_PERCENT,
            instances_max: defaults::CORE_INSTANCES_MAX,
            log_lines_per_call: defaults::LOG_LINES_PER_CALL,
            log_lines_per_second: defaults::LOG_LINES_PER_SECOND,
            memories_max: defaults::MEMORIES_MAX,
            memory_initial_bytes_max: defaults::MEMORY_INITIAL_BYTES_MAX,
            nesting_max: defaults::NESTING_MAX,
            operator_reserve_percent: defaults::OPERATOR_RESERVE_PERCENT,
            plan: plan::Limits::STANDARD,
            plan_deadline: defaults::PLAN_DEADLINE,
            plan_fuel: defaults::PLAN_FUEL,
            plan_memory_bytes_max: defaults::PLAN_MEMORY_BYTES_MAX,
            propose_deadline: defaults::PROPOSE_DEADLINE,
            propose_fuel: defaults::PROPOSE_FUEL,
            propose_memory_bytes_max: defaults::PROPOSE_MEMORY_BYTES_MAX,
            propose_wall_max: defaults::PROPOSE_WALL_MAX,
            purity_check_every: defaults::PURITY_CHECK_EVERY,
            recycle_operator_calls: defaults::RECYCLE_OPERATOR_CALLS,
            recycle_tenant_calls: defaults::RECYCLE_TENANT_CALLS,
            replan_burst: defaults::REPLAN_BURST,
            replan_every: defaults::REPLAN_EVERY,
            resident_bytes: defaults::RESIDENT_BYTES,
            schema_bytes_max: defaults::SCHEMA_BYTES_MAX,
            start_deadline: defaults::START_DEADLINE,
            start_fuel: defaults::START_FUEL,
            table_elements_max: defaults::TABLE_ELEMENTS_MAX,
            tables_max: defaults::TABLES_MAX,
            tenant_decider_bytes_max: defaults::TENANT_DECIDER_BYTES_MAX,
            tenant_share_percent: defaults::TENANT_SHARE_PERCENT,
            type_depth_max: defaults::TYPE_DEPTH_MAX,
            warm_bytes_max: defaults::WARM_BYTES_MAX,
            warm_instances_max: defaults::WARM_INSTANCES_MAX,
        }
    }
}
