//! The configuration through its two doors: what is good becomes what was meant, what is bad is told as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_core::directory::Tenant;
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::topology::Protocol;
use portolan_sharding::Engine;

use super::*;

const GOOD: &str = r#"
[node]
region = "eu-west"

[listen]
public = ["127.0.0.1:8080"]

[region.eu-west.pool.web]
endpoints = ["10.0.0.1:80", "[fd00::1]:80", "app.internal:8080"]
probe = { path = "/healthz", interval = "500ms" }
protocol = "http2"

[region.us-east.pool.web]
endpoints = ["10.1.0.1:80"]

[residency.eu]
regions = ["eu-west"]

[tenant.acme]
residency = "eu"

[policy]
use = "nearest-region"
config = { pool = "web" }
"#;

fn files(texts: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, Box<Rejected>> {
    let sources = (0..)
        .zip(texts)
        .map(|(number, text): (usize, _)| {
            let name = if number == 0 { "portolan.toml".to_owned() } else { format!("conf.d/{number}.toml") };
            Source { path: PathBuf::from(name), text: (*text).to_owned() }
        })
        .collect();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    read(sources, environment, Path::new("/etc/portolan"))
}

fn good(texts: &[&str], environment: &[(&str, &str)]) -> Config {
    match files(texts, environment) {
        Ok(loaded) => loaded.config,
        Err(rejected) => panic!("{}", render(&rejected.problems, &rejected.sources, false)),
    }
}

/// Any text is either taken or refused with problems that can be shown.
#[test]
fn any_text_is_taken_or_refused_with_its_problems() {
    let first = include_bytes!("../../../../tests/fuzz/seeds/config/first.toml");
    portolan_core::exercise::mutated(&[GOOD.as_bytes(), first], 3_000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Err(rejected) = files(&[text], &[]) else { return };
        assert!(!rejected.problems.is_empty(), "refused without a reason");
        assert!(!render(&rejected.problems, &rejected.sources, false).is_empty());
        assert!(rejected.problems.iter().all(|problem| !problem.line(&rejected.sources).is_empty()));
    });
}

fn lines(texts: &[&str], environment: &[(&str, &str)]) -> String {
    let rejected = files(texts, environment).expect_err("this was to be rejected");
    let lines: Vec<String> =
        rejected.problems.iter().map(|problem| problem.line(&rejected.sources)).collect();
    lines.join("\n")
}

#[test]
fn a_good_configuration_becomes_what_was_meant() {
    let config = good(&[GOOD], &[]);
    assert_eq!(config.local.as_str(), "eu-west");
    let pool = config.regions.values().next().unwrap().pools.values().next().unwrap();
    let endpoints: Vec<(&str, u16)> = pool.endpoints.iter().map(|at| (at.host.as_str(), at.port)).collect();
    assert_eq!(endpoints, [("10.0.0.1", 80), ("fd00::1", 80), ("app.internal", 8080)]);
    assert_eq!(pool.protocol, Protocol::Http2);
    let probe = pool.probe.as_ref().unwrap();
    assert_eq!((probe.interval, probe.timeout), (Duration::from_millis(500), defaults::PROBE_TIMEOUT));
    assert_eq!(&*config.policy.unwrap().config, r#"{"pool":"web"}"#);
    assert_eq!(config.state, Path::new("/etc/portolan/.portolan"), "relative paths start at the file");
}

#[test]
fn files_add_to_each_other_and_the_environment_overrides() {
    let more =
        "[tenant.globex]\nresidency = \"eu\"\n[region.us-east.pool.batch]\nendpoints = [\"10.1.0.2:80\"]\n";
    let environment = [
        ("PORTOLAN__LISTEN__PUBLIC", r#"["0.0.0.0:80"]"#),
        ("PORTOLAN__EXPOSE__DECISION", "true"),
        ("PORTOLAN__REGION__EU_WEST__POOL__WEB__CONNECTIONS", "7"),
        ("PORTOLAN__LOG__LEVEL", "debug"),
        ("PATH", "/bin"),
    ];
    let config = good(&[GOOD, more], &environment);
    assert_eq!(config.tenants.len(), 2);
    assert_eq!(config.listen.public, ["0.0.0.0:80".parse().unwrap()]);
    assert!(config.expose_decision);
    assert_eq!(config.log_level, "debug");
    let pools: Vec<_> = config.regions.values().map(|region| region.pools.values().next().unwrap()).collect();
    assert_eq!(pools[0].connections_max, 7);
}

#[test]
fn all_problems_are_told_at_once_each_where_it_was_written() {
    let bad = r#"
[node]
regoin = "eu-west"
region = "eu-wset"

[listen]
public = ["localhost", "127.0.0.1:8080"]
public_tls = ["127.0.0.1:8443"]

[region.eu-west.pool.web]
endpoints = ["10.0.0.1"]
protocol = "http3"
connections = "many"
"#;
    insta::assert_snapshot!(lines(&[bad], &[]));
    let sound = bad.replace("regoin = \"eu-west\"\n", "").replace("http3", "http2").replace("\"many\"", "3");
    insta::assert_snapshot!(lines(&[&sound], &[]));
}

#[test]
fn a_person_sees_the_line_and_a_caret() {
    let rejected = files(&[&GOOD.replace("region = \"eu-west\"\n\n[listen]", "regio = 1\n\n[listen]")], &[])
        .unwrap_err();
    insta::assert_snapshot!(render(&rejected.problems, &rejected.sources, false));
}

#[test]
fn broken_toml_is_told_with_its_place() {
    insta::assert_snapshot!(lines(&["[node\nregion = 1\n= 2"], &[]));
}

#[test]
fn what_two_files_set_is_a_problem_and_so_are_variables_that_mean_nothing() {
    insta::assert_snapshot!(lines(&[GOOD, "[node]\nregion = \"us-east\"\n"], &[]));
    insta::assert_snapshot!(lines(&[GOOD], &[("PORTOLAN__NODE__REGIO", "x"), ("PORTOLAN____X", "1")]));
}

#[test]
fn references_that_lead_nowhere_and_values_out_of_range_are_told() {
    let bad = format!(
        "{GOOD}\n[tenant.globex]\nresidency = \"ue\"\n[tenant.Bad_]\n[[latency]]\nbetween = [\"eu-west\", \"ap\"]\nround_trip = \"0s\"\n\
         [limits]\nheader = \"soon\"\n[tenants]\nsources = [{{ header = \"a b\" }}, {{}}, {{ host_suffix = \"x\" }}]\n\
         [[client_network]]\nnetwork = \"10.0.0.0/40\"\ncountry = \"Germany\"\n[trust]\nproxies = [\"all\"]\n"
    );
    insta::assert_snapshot!(lines(&[&bad], &[]));
    insta::assert_snapshot!(lines(&["[node]\nregion = \"a\"\nthreads = 0\n[listen]\n"], &[]));
}

#[test]
fn listeners_behind_load_balancers_are_public_ones_and_trust_somebody() {
    let behind =
        |address: &str| GOOD.replace("[listen]\n", &format!("[listen]\nproxy_protocol = [\"{address}\"]\n"));
    let trust = "[trust]\nproxies = [\"10.0.0.0/8\"]\n";
    let config = good(&[&behind("127.0.0.1:8080"), trust], &[]);
    assert_eq!(config.listen.proxy_protocol, ["127.0.0.1:8080".parse().unwrap()]);
    let told = lines(&[&behind("127.0.0.1:81")], &[]);
    assert!(told.contains("127.0.0.1:81 is no public listener"), "{told}");
    assert!(told.contains("no proxy is trusted"), "{told}");
}

#[test]
fn the_first_configuration_is_good_and_the_schema_knows_every_setting() {
    good(&[crate::init::FIRST], &[]);
    let schema = schema();
    for setting in ["node", "listen", "region", "tenant", "policy", "limits", "trust", "peer"] {
        assert!(schema.pointer(&format!("/properties/{setting}")).is_some(), "{setting}");
    }
}

#[test]
fn a_deep_or_large_file_is_refused_and_not_fatal() {
    let deep = format!("a = {}1{}", "[".repeat(60), "]".repeat(60));
    assert!(lines(&[&deep], &[]).contains("deep") || lines(&[&deep], &[]).contains("recursion"));
    let wide: String = (0..20_000).map(|number| format!("k{number} = 1\n")).collect();
    assert!(lines(&[&wide], &[]).contains("k19999"));
}

const SHARDS: &str = r#"
[residency.eu]
regions = ["eu-west"]

[shard.a]
primary = "eu-west"
store.eu-west.sqlite = "a.db"

[shard.inside]
primary = "eu-west"
residency = "eu"
store.eu-west.postgres = { owner = "postgres://o@h/d", writer = "postgres://w@h/d", applier = "postgres://p@h/d" }

[table.orders]
tenant = "tenant"
key = ["tenant", "id"]

[place.big]
shard = "inside"
placement = 3
access = "held"

[tenant.big]
residency = "eu"
"#;

#[test]
fn shards_without_rules_have_all_tenants_of_their_class() {
    let first = GOOD.replace("[residency.eu]\nregions = [\"eu-west\"]\n", "");
    let config = good(&[&first, SHARDS], &[]);
    let place = |name: &str, class: Option<&str>| {
        let (name, class) =
            (TenantName::new(name).unwrap(), class.map(|class| ResidencyName::new(class).unwrap()));
        let tenant = Tenant { location: None, name: &name, residency: class.as_ref() };
        let place = config.directory.locate(&tenant)?;
        Some((config.directory.shard(place.shard)?.name.to_string(), place.placement.0))
    };
    assert_eq!(place("any", None), Some(("a".to_owned(), 0)));
    assert_eq!(place("acme", Some("eu")), Some(("inside".to_owned(), 0)));
    assert_eq!(place("big", Some("eu")), Some(("inside".to_owned(), 3)));
    assert_eq!(place("any", Some("us")), None);
    let a = &config.shards[&ShardName::new("a").unwrap()];
    assert_eq!((a.epoch.0, a.primary.as_str()), (1, "eu-west"));
    assert_eq!(a.stores.values().next(), Some(&Engine::Sqlite("/etc/portolan/a.db".into())));

    let leased = good(&[&first, SHARDS, "[lease.a]\nepoch = 7\nprimary = \"eu-west\""], &[]);
    assert_eq!(leased.shards[&ShardName::new("a").unwrap()].epoch.0, 7);
    // Passwords come from elsewhere.
    let owner = [("PORTOLAN__SHARD__INSIDE__STORE__EU-WEST__POSTGRES__OWNER", "postgres://o:secret@h/d")];
    let secret = good(&[&first, SHARDS], &owner);
    assert_ne!(secret.shards, config.shards);
}

#[test]
fn databases_are_reached_and_bounded_as_the_operator_says() {
    let first = GOOD.replace("[residency.eu]\nregions = [\"eu-west\"]\n", "");
    let more = r#"
[shard.inside.store.eu-west]
tls = "verify-ca"
log = "logical"
ca = "ca.pem"
cert = "gateway.pem"
key = "/run/secrets/gateway.key"
max_bytes = 1000000
high_percent = 80

[shard.inside.store.eu-west.postgres]
owner = "postgres://o@h/d"
writer = "postgres://w@h/d"
applier = "postgres://p@h/d"
writer_password_file = "writer"
"#;
    let line = SHARDS.lines().find(|line| line.starts_with("store.eu-west.postgres")).unwrap();
    let config = good(&[&first, &SHARDS.replace(line, ""), more], &[]);
    let shard = &config.shards[&ShardName::new("inside").unwrap()];
    let marks = shard.marks.values().next().unwrap();
    assert_eq!((marks.high_percent, marks.low_percent, marks.max_bytes.unwrap().get()), (80, 75, 1_000_000));
    let Some(Engine::Postgres(postgres)) = shard.stores.values().next() else { panic!("{shard:?}") };
    assert_eq!(postgres.capture, portolan_sharding::Capture::Logical);
    let access = &postgres.access;
    assert_eq!(access.tls, Some(portolan_sharding::Tls::VerifyCa));
    assert_eq!(access.ca, Some("/etc/portolan/ca.pem".into()));
    assert_eq!(access.key, Some("/run/secrets/gateway.key".into()));
    assert_eq!(access.passwords.writer, Some("/etc/portolan/writer".into()));
    assert_eq!(access.passwords.owner, None);
}

#[test]
fn what_is_wrong_with_shards_is_told() {
    let first = GOOD.replace("[residency.eu]\nregions = [\"eu-west\"]\n", "");
    let second = r#"
[shard.b]
primary = "us-east"
store.eu-west.sqlite = "b.db"

[shard.c]
primary = "eu-west"
residency = "moon"
store.eu-west = {}
store.mars.sqlite = "c.db"

[shard.d]
primary = "eu-west"
store = { eu-west.sqlite = "d.db", us-east.sqlite = "d.db" }

[table.Orders]
tenant = "tenant"
key = ["tenant"]

[table.currencies]
key = ["code"]

[placement]
key = "short"
rule = [{ ranges = [{ last = "ff", shard = "z" }] }]

[place.any]
shard = "aa"
placement = 1
"#;
    insta::assert_snapshot!(lines(&[&first, SHARDS, second], &[]));
    let two = "[shard.e]\nprimary = \"eu-west\"\nstore.eu-west.sqlite = \"e.db\"";
    insta::assert_snapshot!(lines(&[&first, SHARDS, two], &[]));
    let hole = "[placement]\nkey = \"00112233445566778899aabbccddeeff\"\nrule = [{ ranges = [{ last = \"7fffffffffffffff\", shard = \"a\" }] }]";
    insta::assert_snapshot!(lines(&[&first, SHARDS, hole], &[]));
    let outside = "[place.small]\nshard = \"inside\"\nplacement = 1";
    insta::assert_snapshot!(lines(&[&first, SHARDS, outside], &[]));
    let first = first.replace(
        "[region.eu-west.pool.web]",
        "[region.eu-west]\ngateways = [\"a:1\", \"b:1\"]\n[region.eu-west.pool.web]",
    );
    insta::assert_snapshot!(lines(&[&first, SHARDS], &[]));
}

#[test]
fn what_may_be_lost_is_bounded_where_other_regions_keep_it() {
    use portolan_core::loss::{Durability, LossLimit, PastMaxLoss};
    let first = GOOD.replace("[residency.eu]\nregions = [\"eu-west\"]\n", "");
    let both = "[control]\nsqlite = \"control.db\"\n[shard.b]\nprimary = \"eu-west\"\n\
        store = { eu-west.sqlite = \"a.db\", us-east.sqlite = \"b.db\" }\n\
        [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n";
    let config = |shard: &str, table: &str| {
        good(
            &[
                GOOD,
                &both.replace("[table", &format!("{shard}\n[table")),
                &format!("[table.notes]\ntenant = \"t\"\nkey = [\"t\"]\n{table}"),
            ],
            &[],
        )
    };
    let shard = ShardName::new("b").unwrap();
    let plain = config("", "");
    assert_eq!(
        (plain.shards[&shard].loss, plain.tables.find("notes").unwrap().durability),
        (None, Durability::Local)
    );
    let slow = LossLimit { max: Duration::from_secs(10), past: PastMaxLoss::Slow };
    let bounded = config("max_loss = \"10s\"", "durability = \"majority\"");
    assert_eq!(bounded.shards[&shard].loss, Some(slow));
    assert_eq!(bounded.tables.find("notes").unwrap().durability, Durability::Majority);
    let refused = config("max_loss = \"10s\"\npast_max_loss = \"refuse\"", "durability = \"one-region\"");
    assert_eq!(refused.shards[&shard].loss, Some(LossLimit { past: PastMaxLoss::Refuse, ..slow }));

    let alone = "[shard.a]\nmax_loss = \"10ms\"\n[table.orders]\ndurability = \"one-region\"\n[shard.inside]\npast_max_loss = \"slow\"\n";
    insta::assert_snapshot!(lines(&[&first, SHARDS, alone], &[]));
}

#[test]
fn a_shard_whose_engine_replicates_itself_is_only_routed_to() {
    let shard = |more: &str, store: &str| {
        format!(
            "[shard.b]\nprimary = \"eu-west\"\nreplication = \"external\"\n{more}\n[shard.b.store.eu-west]\n{store}\n\
             [shard.b.store.us-east]\nexternal = {{ address = \"postgres://w@us/shop\", password_file = \"pw\" }}\n"
        )
    };
    let engine = "external = { address = \"postgres://w@eu/shop\" }";
    let config = good(&[GOOD, &shard("", engine)], &[]);
    let name = ShardName::new("b").unwrap();
    assert!(config.shards.is_empty(), "portolan holds none of its rows");
    let known = config.directory.named(&name).unwrap();
    assert!(known.external);
    assert_eq!((known.primary.as_str(), known.replicas.len()), ("eu-west", 1));
    let there = &config.externals[&name].stores[&RegionName::new("us-east").unwrap()];
    assert_eq!(there.address, "postgres://w@us/shop");
    assert!(
        there.password.as_ref().is_some_and(|file| file.ends_with("pw") && file.is_absolute()),
        "{there:?}"
    );

    let wrong = |more: &str, store: &str| lines(&[GOOD, &shard(more, store)], &[]);
    let told = wrong("max_loss = \"10s\"\ncapacity = 5", engine);
    assert!(told.contains("`max_loss` is nothing") && told.contains("`capacity` is nothing"), "{told}");
    let told = wrong("", "sqlite = \"a.db\"");
    assert!(told.contains("holds none of the rows"), "{told}");
    let told = wrong("", "tls = \"require\"");
    assert!(told.contains("where is the engine reached?"), "{told}");
    let told = wrong(
        "",
        &format!(
            "{engine}\n[placement]\nkey = \"00112233445566778899aabbccddeeff\"\nrule = []\npolicy = \"jump-hash\"\n"
        ),
    );
    assert!(told.contains("a sharding policy moves tenants"), "{told}");
    let native = shard("", engine).replace("replication = \"external\"\n", "");
    let told = lines(&[GOOD, &native], &[]);
    assert!(told.contains("an engine that replicates itself"), "{told}");
}

#[test]
fn content_is_where_its_shard_is() {
    let first = GOOD.to_owned() + "\n[content]\n";
    let shard = "[control]\nsqlite = \"control.db\"\n[shard.b]\nprimary = \"eu-west\"\n\
        store = { eu-west.sqlite = \"a.db\", us-east.sqlite = \"b.db\" }\n";
    assert!(good(&[&first, shard], &[]).content.is_some());
}
