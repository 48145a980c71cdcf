//! `dynamic-example`: decides request by request, to show how that is done.
//!
//! Users whose header says so are spread over all pools by a hash of their name; paths below `/admin` always go to the
//! first. A `split` rule with `sticky` would do this without a guest on the request path: prefer it wherever it can say
//! what you mean.

use portolan_plugin::{Call, Decider, Draft, Facts, Policy, Refusal, export};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pools of the local region to spread over, the first one for everybody without a name.
    pub pools: Vec<String>,
    /// The header that names the user.
    #[serde(default = "Config::usual_header")]
    pub user_header: String,
}

impl Config {
    fn usual_header() -> String {
        "x-user".to_owned()
    }
}

/// The policy.
#[derive(Debug)]
pub struct DynamicExample {
    pools: u32,
}

impl Policy for DynamicExample {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let local = facts.local_region();
        let among: Vec<_> =
            config.pools.iter().map(|pool| draft.forward(&local, pool)).collect::<Result<_, _>>()?;
        let header = format!("header:{}", config.user_header);
        draft.memo(&u32::try_from(among.len()).unwrap_or(0).to_le_bytes())?;
        draft.rule().named("by-user").dynamic(&["path", "tenant", &header], among)?;
        Ok(())
    }
}

impl Decider for DynamicExample {
    fn start(_: Config, memo: &[u8]) -> Result<Self, String> {
        let bytes = memo.try_into().map_err(|_| format!("the memo has {} bytes, not 4", memo.len()))?;
        Ok(Self { pools: u32::from_le_bytes(bytes).max(1) })
    }

    fn decide(&self, call: &Call<'_>) -> u32 {
        let (path, tenant, user) = (call.value(0), call.value(1), call.value(2));
        match user {
            Some(user) if !path.is_some_and(|path| path.starts_with("/admin")) => {
                hash(tenant.unwrap_or_default(), user) % self.pools
            }
            _ => 0,
        }
    }
}

/// FNV-1a over both names, with a byte between that no name contains.
fn hash(tenant: &str, user: &str) -> u32 {
    let bytes = tenant.bytes().chain([0]).chain(user.bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

export!(DynamicExample, decider, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    const CONFIG: &str = r#"{"pools": ["web", "web-b", "web-c"]}"#;

    fn decide(request: &Request) -> Option<String> {
        let world = World::new("eu").region("eu", &["web", "web-b", "web-c"]);
        world.plan::<DynamicExample>(CONFIG).unwrap().decide::<DynamicExample>(request, 1).unwrap()
    }

    #[test]
    fn users_spread_and_each_stays() {
        let of = |user: u32| decide(&Request::get("/").with("header:x-user", &format!("user-{user}")));
        let homes: std::collections::BTreeSet<_> = (0..50).map(of).collect();
        assert_eq!(homes.len(), 3);
        assert_eq!(of(7), of(7));
    }

    #[test]
    fn administration_and_strangers_go_to_the_first() {
        assert_eq!(decide(&Request::get("/")).as_deref(), Some("eu/web"));
        let admin = Request::get("/admin/users").with("header:x-user", "user-1");
        assert_eq!(decide(&admin).as_deref(), Some("eu/web"));
    }

    #[test]
    fn a_memo_that_is_not_ours_is_refused() {
        let config = Config { pools: Vec::new(), user_header: String::new() };
        assert!(DynamicExample::start(config, &[1, 2]).is_err());
    }
}
