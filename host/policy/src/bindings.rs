//! The contract 0.1 as Rust, generated from the same files that policies are built from. Nothing outside this crate
//! sees these types.

wasmtime::component::bindgen!({
    inline: "
        package portolan:host;
        // Whatever a component of the routing worlds may export.
        world routing {
            include portolan:policy/routing@0.1.0;
            export portolan:policy/packed-decider@0.1.0;
        }
    ",
    path: "../../wit/policy/v0.1",
    world: "portolan:host/routing",
    imports: { default: trappable },
    ownership: Borrowing { duplicate_if_necessary: true },
});
