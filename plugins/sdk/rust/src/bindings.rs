//! The contract as wit-bindgen generates it: imports and planner in one module, the decider in another, so that each
//! interface is generated once. A component that exports both has the union of both worlds, which is `routing-packed`. One
//! that places tenants has a world of its own, and uses the facts and the log of the first module, which are the same; so has one
//! that answers when regions fail, and one that merges, which use the log.
//! Private to the `export!` macro and to `host`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unsafe_code,
    unused_qualifications,
    unreachable_pub,
    reason = "generated; documented in wit/policy/v0.1"
)]

/// The world `routing-plan`.
pub mod planning {
    wit_bindgen::generate!({
        path: "../../../wit/policy/v0.1",
        world: "routing-plan",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portolan_plugin::bindings::planning",
        type_section_suffix: "planning",
    });
}

/// What the world `routing-packed` has beyond that.
pub mod deciding {
    wit_bindgen::generate!({
        inline: "
            package portolan:sdk;
            world decide { export portolan:policy/packed-decider@0.1.0; }
        ",
        path: "../../../wit/policy/v0.1",
        world: "portolan:sdk/decide",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portolan_plugin::bindings::deciding",
        type_section_suffix: "deciding",
    });
}

/// The world `sharding`.
pub mod placing {
    wit_bindgen::generate!({
        path: "../../../wit/policy/v0.1",
        world: "sharding",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portolan_plugin::bindings::placing",
        type_section_suffix: "placing",
    });
}

/// The world `failover`.
pub mod failing {
    wit_bindgen::generate!({
        path: "../../../wit/policy/v0.1",
        world: "failover",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portolan_plugin::bindings::failing",
        type_section_suffix: "failing",
    });
}

/// The world `resolving`.
pub mod merging {
    wit_bindgen::generate!({
        path: "../../../wit/policy/v0.1",
        world: "resolving",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portolan_plugin::bindings::merging",
        type_section_suffix: "merging",
    });
}
