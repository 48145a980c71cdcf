//! Write a portolan policy in Rust.
//!
//! A policy is a type that implements [`Policy`]: given its configuration and what the gateway knows ([`Facts`]), it writes
//! a plan ([`Draft`]). The gateway executes the plan; most policies are never called on a request's path. One that must
//! look at each request also implements [`Decider`]. One that places tenants on shards implements [`Sharding`] instead,
//! one that says what to do when regions fail [`Failover`], and one that merges what was written apart [`Resolver`].
//!
//! ```
//! use portolan_plugin::{Draft, Facts, Policy, Refusal};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     pool: String,
//! }
//!
//! struct Everywhere;
//!
//! impl Policy for Everywhere {
//!     type Config = Config;
//!
//!     fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
//!         let here = draft.forward(&facts.local_region(), &config.pool)?;
//!         draft.rule().named("here").split([(here, 1)])?;
//!         Ok(())
//!     }
//! }
//!
//! // One line makes it a component: `portolan_plugin::export!(Everywhere);`
//! use portolan_plugin::testing::{Request, World};
//!
//! let world = World::new("eu").region("eu", &["web"]);
//! let plan = world.plan::<Everywhere>(r#"{"pool": "web"}"#).unwrap();
//! assert_eq!(plan.route(&Request::get("/")), ["eu/web"]);
//! ```
//!
//! The same code runs natively in `cargo test`, against the gateway's own draft and table ([`testing`]), and as a
//! component in the gateway. `portolan plugin build` makes the component.

mod draft;
mod facts;
#[cfg_attr(target_family = "wasm", path = "host/failing_wasm.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "host/failing_native.rs")]
mod failing_host;
mod failover;
#[cfg_attr(target_family = "wasm", path = "host/wasm.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "host/native.rs")]
mod host;
mod policy;
mod resolving;
#[cfg_attr(target_family = "wasm", path = "host/shards_wasm.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "host/shards_native.rs")]
mod shard_host;
mod sharding;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod values;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;

pub use draft::{Answer, Draft, Refusal, Rule, RuleBuilder, Test};
pub use facts::{Facts, Verdict};
pub use failover::{Answers, Detour, Event, Failover, Health, Region, Regions, Replica, Shard, Sight};
pub use policy::{Call, Decider, Level, Policy, log};
pub use resolving::{Resolver, rows};
pub use sharding::{Changes, Sharding, Shards, Span};

#[doc(hidden)]
pub use failover::glue as failover_glue;
#[doc(hidden)]
pub use policy::glue;
#[doc(hidden)]
pub use sharding::glue as sharding_glue;
#[doc(hidden)]
pub use values::Values;

/// Makes the crate's component of a policy.
///
/// - `export!(MyPolicy);` for one that only plans;
/// - `export!(MyPolicy, schema = "config.schema.json");` puts the JSON Schema of its configuration into the component,
///   so that the gateway refuses a wrong configuration before the policy runs; the path is relative to the source file;
/// - `export!(MyPolicy, decider, ...)` for one that also implements [`Decider`];
/// - `export!(MyPolicy, sharding, ...)` for one that implements [`Sharding`], and nothing else;
/// - `export!(MyPolicy, failover, ...)` for one that implements [`Failover`], and nothing else;
/// - `export!(MyPolicy, resolver)` for one that implements [`Resolver`], and nothing else.
///
/// Natively it makes nothing: tests call the policy directly.
#[macro_export]
macro_rules! export {
    ($policy:ty $(, schema = $schema:literal)?) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;
            $crate::export!(@planner Component, $policy);
        };
        $($crate::export!(@schema $schema);)?
    };
    ($policy:ty, decider $(, schema = $schema:literal)?) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;
            $crate::export!(@planner Component, $policy);
            ::std::thread_local! {
                static DECIDER: ::std::cell::OnceCell<$policy> = const { ::std::cell::OnceCell::new() };
            }
            impl $crate::bindings::deciding::exports::portolan::policy::packed_decider::Guest for Component {
                fn start(
                    config: ::std::string::String,
                    memo: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<(), ::std::string::String> {
                    DECIDER.with(|cell| $crate::glue::start(cell, &config, &memo))
                }
                fn decide(
                    rule: u32,
                    now_ms: u64,
                    seed: u64,
                    values: ::std::vec::Vec<u8>,
                ) -> u32 {
                    // SAFETY: the gateway made them as the contract says.
                    let values = unsafe { $crate::Values::of_gateway(&values) };
                    DECIDER.with(|cell| $crate::glue::decide(cell, rule, now_ms, seed, values))
                }
            }
            $crate::bindings::deciding::export!(Component with_types_in $crate::bindings::deciding);
        };
        $($crate::export!(@schema $schema);)?
    };
    ($policy:ty, sharding $(, schema = $schema:literal)?) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::placing::exports::portolan::policy::placer;
            struct Component;
            impl placer::Guest for Component {
                fn place(
                    config: ::std::string::String,
                    tenant: ::std::string::String,
                ) -> ::std::result::Result<::std::option::Option<::std::string::String>, placer::Refusal> {
                    $crate::sharding_glue::place::<$policy>(&config, &tenant)
                        .map_err(|refusal| placer::Refusal { code: refusal.code, message: refusal.message })
                }
                fn rebalance(config: ::std::string::String) -> ::std::result::Result<(), placer::Refusal> {
                    $crate::sharding_glue::rebalance::<$policy>(&config)
                        .map_err(|refusal| placer::Refusal { code: refusal.code, message: refusal.message })
                }
            }
            $crate::bindings::placing::export!(Component with_types_in $crate::bindings::placing);
        };
        $($crate::export!(@schema $schema);)?
    };
    ($policy:ty, failover $(, schema = $schema:literal)?) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::failing::exports::portolan::policy::proposer;
            struct Component;
            impl proposer::Guest for Component {
                fn propose(config: ::std::string::String) -> ::std::result::Result<(), proposer::Refusal> {
                    $crate::failover_glue::propose::<$policy>(&config)
                        .map_err(|refusal| proposer::Refusal { code: refusal.code, message: refusal.message })
                }
            }
            $crate::bindings::failing::export!(Component with_types_in $crate::bindings::failing);
        };
        $($crate::export!(@schema $schema);)?
    };
    ($policy:ty, resolver) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::merging::exports::portolan::policy::resolver;
            struct Component;
            impl resolver::Guest for Component {
                fn resolve(
                    base: ::std::vec::Vec<u8>,
                    left: ::std::vec::Vec<u8>,
                    right: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<u8>, resolver::Refusal> {
                    <$policy as $crate::Resolver>::resolve(&base, &left, &right)
                        .map_err(|refusal| resolver::Refusal { code: refusal.code, message: refusal.message })
                }
            }
            $crate::bindings::merging::export!(Component with_types_in $crate::bindings::merging);
        };
    };
    (@planner $component:ident, $policy:ty) => {
        impl $crate::bindings::planning::exports::portolan::policy::planner::Guest for $component {
            fn plan(
                config: ::std::string::String,
            ) -> ::std::result::Result<(), $crate::bindings::planning::exports::portolan::policy::planner::Refusal> {
                $crate::glue::plan::<$policy>(&config).map_err(|refusal| {
                    $crate::bindings::planning::exports::portolan::policy::planner::Refusal {
                        code: refusal.code,
                        message: refusal.message,
                    }
                })
            }
        }
        $crate::bindings::planning::export!($component with_types_in $crate::bindings::planning);
    };
    (@schema $schema:literal) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "a section of its own is a promise that its bytes are not code: they are text")]
        #[unsafe(link_section = "portolan:config-schema")]
        #[used]
        static CONFIG_SCHEMA: [u8; include_bytes!($schema).len()] = *include_bytes!($schema);
    };
}
