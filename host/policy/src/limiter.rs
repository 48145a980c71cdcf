//! Sums what a store's memories, tables and instances take, because a limit on each of them is no limit.

use wasmtime::ResourceLimiter;

use crate::config::Limits;

/// The sums of one store and what they may reach.
#[derive(Debug)]
pub(crate) struct Limiter {
    denied: Option<&'static str>,
    instances_max: usize,
    memories_max: usize,
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    tables_max: usize,
}

impl Limiter {
    pub(crate) const fn new(limits: &Limits, memory_bytes_max: usize) -> Self {
        Self {
            denied: None,
            instances_max: limits.instances_max,
            memories_max: limits.memories_max,
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            table_elements_max: limits.table_elements_max,
            tables_max: limits.tables_max,
        }
    }

    /// Bytes of all memories.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// What was refused last.
    pub(crate) const fn denied(&self) -> Option<&'static str> {
        self.denied
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let sum = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if sum > self.memory_bytes_max {
            self.denied = Some("more memory than its limit");
            return Ok(false);
        }
        self.memory_bytes = sum;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let sum = self.table_elements.saturating_add(desired.saturating_sub(current));
        if sum > self.table_elements_max {
            self.denied = Some("more table elements than its limit");
            return Ok(false);
        }
        self.table_elements = sum;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn tables(&self) -> usize {
        self.tables_max
    }

    fn memories(&self) -> usize {
        self.memories_max
    }
}
