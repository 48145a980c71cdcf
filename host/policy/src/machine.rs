//! The settings of wasmtime: one set for the process that compiles and for the one that runs, so that code of the one
//! is code for the other. Everything that policies do not need is off.

use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy};

use crate::config::Limits;
use crate::defaults::{GUEST_STACK_BYTES, POOL_SLOTS_MIN};
use crate::error::Error;

/// Core instances, tables and such that a slot may take on average: a guest of the usual tools has three core
/// instances (its own, and two that tie it to its imports) and two tables.
const PARTS_PER_SLOT: u32 = 4;
/// The description of one component's instances in memory. Python's needs the most.
const INSTANCE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Slots whose memory stays mapped for the next guest of the same component.
const WARM_SLOTS_MAX: u32 = 256;

/// An engine that compiles and does not run: it reserves no address space, so that it fits a small limit.
pub(crate) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&settings())
}

/// An engine that runs, with as many slots as the address space gives: the number wanted, or half, or a quarter ...
pub(crate) fn runner(limits: &Limits, slots: u32) -> Result<(Engine, u32), Error> {
    let mut slots = slots.max(POOL_SLOTS_MIN);
    loop {
        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits, slots)));
        match Engine::new(&config) {
            Ok(engine) => return Ok((engine, slots)),
            Err(error) if slots <= POOL_SLOTS_MIN => {
                return Err(Error::Pool { slots, reason: format!("{error:#}") });
            }
            Err(_) => slots = (slots / 2).max(POOL_SLOTS_MIN),
        }
    }
}

fn settings() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // The same plan on every node: no bits of a NaN and no instruction may depend on the processor.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .memory_init_cow(true)
        .native_unwind_info(false)
        .wasm_component_model(true)
        .wasm_component_model_error_context(false)
        .wasm_component_model_fixed_length_lists(false)
        .wasm_component_model_gc(false)
        .wasm_component_model_implements(false)
        .wasm_component_model_map(false)
        .wasm_component_model_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_memory64(false)
        // For the engine's own adapters between components within components; guests' modules may not use it.
        .wasm_multi_memory(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(true)
        .wasm_wide_arithmetic(false);
    config
}

fn pool(limits: &Limits, slots: u32) -> PoolingAllocationConfig {
    let parts = slots.saturating_mul(PARTS_PER_SLOT);
    let instances = u32::try_from(limits.instances_max).unwrap_or(u32::MAX);
    let memories = u32::try_from(limits.memories_max).unwrap_or(u32::MAX);
    let tables = u32::try_from(limits.tables_max).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_memories(slots)
        .total_core_instances(parts.max(instances))
        .total_tables(parts.max(tables))
        .max_core_instances_per_component(instances)
        .max_memories_per_component(memories)
        .max_tables_per_component(tables)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_memories_per_module(1)
        .max_tables_per_module(tables)
        .max_memory_size(limits.plan_memory_bytes_max.max(limits.decide_memory_bytes_max))
        .table_elements(limits.table_elements_max)
        .linear_memory_keep_resident(limits.resident_bytes)
        .table_keep_resident(limits.resident_bytes)
        .max_unused_warm_slots(WARM_SLOTS_MAX)
        .decommit_batch_size(16);
    pool
}
