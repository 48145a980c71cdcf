//! The contract 0.1 as Rust, generated from the same files that policies are built from. Nothing outside this crate
//! sees these types.

wasmtime::component::bindgen!({
    inline: "
        package portolan:host;
        // Whatever a component of any world may import or export.
        world policies {
            include portolan:policy/routing@0.1.0;
            include portolan:policy/sharding@0.1.0;
            include portolan:policy/failover@0.1.0;
            include portolan:policy/resolving@0.1.0;
            export portolan:policy/packed-decider@0.1.0;
        }
    ",
    path: "../../wit/policy/v0.1",
    world: "portolan:host/policies",
    imports: { default: trappable },
    ownership: Borrowing { duplicate_if_necessary: true },
});
