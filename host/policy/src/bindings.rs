//! The contract 0.1 as Rust, generated from the same files that policies are built from. Nothing outside this crate
//! sees these types.

wasmtime::component::bindgen!({
    path: "../../wit/policy/v0.1",
    world: "routing",
    imports: { default: trappable },
    ownership: Borrowing { duplicate_if_necessary: true },
});
