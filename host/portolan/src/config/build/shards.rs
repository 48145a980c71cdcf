//! Shards, their tables, and which tenant is on which shard.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use portolan_core::directory::{
    Access, Directory, Exceptions, HashKey, Place, Placement, Range, Rule, Shard, ShardIndex, even,
};
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::loss::{Durability, LossLimit, PastMaxLoss};
use portolan_core::placement::Limits;
use portolan_core::tenant_table::{Identifier, Tables, TenantTable, Writers};
use portolan_sharding::{Engine, External, Watermarks};

use super::{At, Builder, Config, PolicySlot, RegionConfig, TenantConfig, conflict};
use crate::config::defaults::{self, LINE_PERMILLE_MAX, MAX_LOSS_MIN, MOVES_MAX};
use crate::config::raw::RawPolicy;
use crate::config::raw::{
    RawAccess, RawDurability, RawLease, RawPastMaxLoss, RawPlace, RawPlacement, RawReplication, RawRule,
    RawShard, RawTable, RawWriters,
};
use crate::config::shape::suggest;

/// A shard: where it is written, and where each region has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShardConfig {
    /// How many tenants it may have.
    pub(crate) capacity: Option<u64>,
    pub(crate) epoch: Epoch,
    /// The region that writes it when all is well.
    pub(crate) home: RegionName,
    /// How much of it may be lost with the region that writes it.
    pub(crate) loss: Option<LossLimit>,
    /// Its epoch begins with the rows that are there.
    pub(crate) partial: bool,
    pub(crate) primary: RegionName,
    pub(crate) stores: BTreeMap<RegionName, Engine>,
    /// How full each may be.
    pub(crate) marks: BTreeMap<RegionName, Watermarks>,
    /// Its part of what is taken of another region in a second.
    pub(crate) weight: NonZeroU32,
}

/// A shard whose engine replicates and fences itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExternalConfig {
    pub(crate) epoch: Epoch,
    pub(crate) primary: RegionName,
    pub(crate) stores: BTreeMap<RegionName, External>,
}

/// What a section of a shard comes to.
enum Declared {
    External(ExternalConfig),
    Native(ShardConfig),
}

/// How tenants move from one shard to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    /// How long the source keeps their rows.
    pub(crate) keep: Duration,
    /// How fast rows are copied.
    pub(crate) rows_per_second: NonZeroU32,
}

/// Who decides on which shard tenants are, and how much one plan may move.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlacementConfig {
    pub(crate) limits: Limits,
    pub(crate) policy: Option<PolicySlot>,
}

/// What the sections of shards say.
pub(super) struct Shards {
    pub(super) directory: Arc<Directory>,
    pub(super) externals: BTreeMap<ShardName, ExternalConfig>,
    pub(super) moving: Moving,
    pub(super) placement: PlacementConfig,
    pub(super) shards: BTreeMap<ShardName, ShardConfig>,
    pub(super) tables: Tables,
}

/// The sections of shards as they are written.
pub(super) struct RawShards {
    pub(super) lease: BTreeMap<String, RawLease>,
    pub(super) place: BTreeMap<String, RawPlace>,
    pub(super) placement: Option<RawPlacement>,
    pub(super) shard: BTreeMap<String, RawShard>,
    pub(super) table: BTreeMap<String, RawTable>,
}

impl Config {
    /// A shard that portolan keeps.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(crate) fn shard(&self, name: &ShardName) -> Result<&ShardConfig, String> {
        if self.externals.contains_key(name) {
            return Err(format!(
                "shard `{name}` is kept by an engine that replicates itself: its rows are copied, changed and put back by that engine's own tools"
            ));
        }
        let there = self.shards.get(name);
        there.ok_or_else(|| format!("there is no shard `{name}`: `portolan shard list` shows them"))
    }
}

type Classes = BTreeMap<ResidencyName, BTreeSet<RegionName>>;

/// Rules as they are written.
pub(crate) fn written(rules: &[Rule], shards: &[Shard]) -> String {
    let rule = |rule: &Rule| {
        let name =
            |range: &Range| shards.get(usize::from(range.shard.0)).map_or("?", |shard| shard.name.as_str());
        let range =
            |range: &Range| format!("{{ last = \"{:016x}\", shard = \"{}\" }}", range.last, name(range));
        let ranges: Vec<String> = rule.ranges.iter().map(range).collect();
        let class =
            rule.residency.as_ref().map_or_else(String::new, |class| format!("residency = \"{class}\", "));
        let location =
            rule.location.as_ref().map_or_else(String::new, |region| format!("location = \"{region}\", "));
        format!("{{ {location}{class}ranges = [{}] }}", ranges.join(", "))
    };
    format!("rule = [{}]", rules.iter().map(rule).collect::<Vec<_>>().join(", "))
}

impl Builder<'_> {
    pub(super) fn shards(
        &mut self,
        mut raw: RawShards,
        regions: &BTreeSet<RegionName>,
        classes: &Classes,
        shares_intent: bool,
    ) -> Option<Shards> {
        let before = self.problems.len();
        let tables = self.tables(raw.table);
        let (mut known, mut shards, mut externals) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (name, shard) in raw.shard {
            let Some((shard, declared)) = self.shard(&name, shard, raw.lease.remove(&name), regions, classes)
            else {
                continue;
            };
            let config = match declared {
                Declared::Native(config) => config,
                Declared::External(external) => {
                    externals.insert(shard.name.clone(), external);
                    known.push(shard);
                    continue;
                }
            };
            if config.stores.len() > 1 && !shares_intent {
                let help = "add `[control]`: without one store of intent, two regions could both believe that they write it";
                self.problem(&["shard", &name], "a shard of several regions needs a control store", help);
            }
            shards.insert(shard.name.clone(), config);
            known.push(shard);
        }
        tables.iter().for_each(|tables| self.durable(tables, &shards));
        let placement = self.placement(raw.placement.as_mut());
        if placement.policy.is_some() && !externals.is_empty() {
            let help = "say with rules and `[place.*]` which tenants are there, and leave out `policy`";
            let what =
                "a sharding policy moves tenants, and nobody moves those of a shard that replicates itself";
            self.problem(&["placement", "policy"], what, help);
        }
        let key = raw.placement.as_ref().map_or(Some([0; 16]), |placement| self.hash_key(&placement.key));
        let moving = self.moving(raw.placement.as_ref());
        let rules = match raw.placement {
            Some(placement) => self.rules(placement.rule, &known, regions, classes),
            None => self.only_shards(&known),
        };
        // A bad key is told already; with another one, the rest can be looked at.
        let key = HashKey::new(key.unwrap_or_default());
        let places: Vec<_> =
            raw.place.into_iter().filter_map(|(name, place)| self.place(&name, &place, &known)).collect();
        let exceptions = Exceptions::from_all(
            places.iter().map(|(tenant, place)| (key.of(tenant), *place)).collect::<Vec<_>>().into_iter(),
        );
        if self.problems.len() > before {
            return None;
        }
        match Directory::new(key, known, rules, exceptions, classes) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                Some(Shards { directory, externals, moving, placement, shards, tables: tables? })
            }
            Err(error) => {
                let help = "`portolan shard plan` proposes rules that leave no hash without an owner";
                self.problem(&["placement"], error.to_string(), help);
                None
            }
        }
    }

    /// What the whole shows alone: files of which several gateways would make one each, and tenants that are placed out of their
    /// residency class. `places` has the shard of each tenant that is an exception.
    pub(super) fn check_shards(
        &mut self,
        shards: &Shards,
        places: &[(String, String)],
        regions: &BTreeMap<RegionName, RegionConfig>,
        tenants: &BTreeMap<TenantName, TenantConfig>,
    ) {
        for (name, shard) in &shards.shards {
            let files = shard.stores.iter().filter(|(_, engine)| matches!(engine, Engine::Sqlite(_)));
            for region in files.map(|(region, _)| region) {
                let gateways = regions.get(region).map_or(0, |region| region.gateways.len());
                if gateways > 1 {
                    self.problem(
                        &["shard", name.as_str(), "store", region.as_str()],
                        format!("`{region}` has {gateways} gateways, and each would make a file of its own"),
                        "use `postgres` in this region, or one gateway",
                    );
                }
            }
        }
        let class = |class: Option<&ResidencyName>| match class {
            Some(class) => format!("of residency class `{class}`"),
            None => "without a residency class".to_owned(),
        };
        for (tenant, shard) in places {
            let placed = ShardName::new(shard).ok().and_then(|shard| shards.directory.named(&shard));
            let Some(placed) = placed else { continue };
            let known = TenantName::new(tenant).ok().and_then(|name| tenants.get(&name));
            let residency = known.and_then(|tenant| tenant.residency.as_ref());
            if placed.residency.as_ref() != residency {
                let (wants, has) = (class(residency), class(placed.residency.as_ref()));
                self.problem(
                    &["place", tenant, "shard"],
                    format!("`{tenant}` is a tenant {wants}, and `{shard}` is for tenants {has}"),
                    "place it on a shard of its class: `portolan shard list` shows them",
                );
            }
        }
    }

    /// The policy of placement and its limits; taken out of its section.
    fn placement(&mut self, raw: Option<&mut RawPlacement>) -> PlacementConfig {
        let usual = Limits { line_permille_max: LINE_PERMILLE_MAX, moves_max: MOVES_MAX };
        let Some(raw) = raw else { return PlacementConfig { limits: usual, policy: None } };
        let limits = Limits {
            line_permille_max: raw.line_permille_max.unwrap_or(usual.line_permille_max),
            moves_max: raw.moves_max.unwrap_or(usual.moves_max),
        };
        let (config, version) = (std::mem::take(&mut raw.config), raw.version.take());
        let Some(name) = raw.policy.take() else {
            if !config.is_empty() || version.is_some() {
                let help = "name it: `policy = \"jump-hash\"`, or take `config` and `version` away";
                self.problem(&["placement"], "there is a configuration, and no policy", help);
            }
            return PlacementConfig { limits, policy: None };
        };
        let raw = RawPolicy { config, dynamic_granted: false, on_fail: None, name, version };
        PlacementConfig { limits, policy: self.policy(&["placement"], raw) }
    }

    fn shard(
        &mut self,
        text: &str,
        raw: RawShard,
        lease: Option<RawLease>,
        regions: &BTreeSet<RegionName>,
        classes: &Classes,
    ) -> Option<(Shard, Declared)> {
        if raw.replication == RawReplication::External {
            self.only_native(text, &raw);
        }
        let name = self.name(&["shard", text], text, ShardName::new);
        let preferred = self.known_region(&["shard", text, "primary"], &raw.primary, regions);
        let partial = lease.as_ref().is_some_and(|lease| lease.partial);
        let (epoch, primary) = match lease {
            None => (1, preferred.clone()),
            Some(lease) => {
                (lease.epoch, self.known_region(&["lease", text, "primary"], &lease.primary, regions))
            }
        };
        let loss = self.loss(text, raw.max_loss, raw.past_max_loss, raw.store.len() > 1);
        let residency = match raw.residency {
            Some(class) => self.class(&["shard", text, "residency"], &class, classes),
            None => None,
        };
        let external = raw.replication == RawReplication::External;
        let (mut stores, mut marks, mut externals) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (region, store) in raw.store {
            let at = ["shard", text, "store", &region];
            if external {
                let engine = self.external(&at, store);
                if let (Some(region), Some(engine)) = (self.known_region(&at, &region, regions), engine) {
                    externals.insert(region, engine);
                }
                continue;
            }
            let full = self.marks(&at, &store);
            let engine = self.engine(&at, store);
            if let (Some(region), Some(engine)) = (self.known_region(&at, &region, regions), engine) {
                marks.insert(region.clone(), full);
                stores.insert(region, engine);
            }
        }
        let primary = primary?;
        let kept: BTreeSet<RegionName> = stores.keys().chain(externals.keys()).cloned().collect();
        if !kept.contains(&primary) {
            let help = format!("say where it is there: `[shard.{text}.store.{primary}]`");
            self.problem(&["shard", text, "primary"], format!("`{primary}` does not keep this shard"), help);
            return None;
        }
        let replicas = kept.into_iter().filter(|region| *region != primary).collect();
        let epoch = Epoch(epoch);
        let shard = Shard {
            name: name?,
            epoch,
            external,
            primary: primary.clone(),
            replicas,
            residency,
            takes_new: !raw.drain,
        };
        if external {
            let config = ExternalConfig { epoch, primary, stores: externals };
            return Some((shard, Declared::External(config)));
        }
        let weight = raw.replication_weight.unwrap_or(defaults::REPLICATION_WEIGHT);
        let capacity = raw.capacity;
        let home = preferred.filter(|home| stores.contains_key(home)).unwrap_or_else(|| primary.clone());
        let config = ShardConfig { capacity, epoch, home, loss, marks, partial, primary, stores, weight };
        Some((shard, Declared::Native(config)))
    }

    /// What portolan does not do for a shard that replicates itself.
    fn only_native(&mut self, name: &str, raw: &RawShard) {
        let given = [
            ("capacity", raw.capacity.is_some()),
            ("max_loss", raw.max_loss.is_some()),
            ("past_max_loss", raw.past_max_loss.is_some()),
            ("replication_weight", raw.replication_weight.is_some()),
        ];
        for (setting, _) in given.iter().filter(|(_, given)| *given) {
            let what = format!("`{setting}` is nothing to a shard that replicates itself");
            self.problem(&["shard", name, setting], what, "take it away, or `replication = \"external\"`");
        }
    }

    /// How much of a shard may be lost with the region that writes it.
    fn loss(
        &mut self,
        name: &str,
        max: Option<String>,
        past: Option<RawPastMaxLoss>,
        is_copied: bool,
    ) -> Option<LossLimit> {
        let at = ["shard", name, "max_loss"];
        if max.is_none() && past.is_some() {
            let help = "say how much may be lost, with `max_loss = \"10s\"`, or take it away";
            self.problem(&["shard", name, "past_max_loss"], "there is no `max_loss` to be past", help);
        }
        let told = max.is_some();
        let max = self.time(&at, max);
        if let Some(max) = max.filter(|max| *max < MAX_LOSS_MIN) {
            let help = "regions tell each other a few times a second what they have: allow a second or more";
            self.problem(&at, format!("{max:?} is less than can be held to"), help);
        }
        if told && !is_copied {
            let help =
                format!("add `[shard.{name}.store.REGION]` in another region, or take `max_loss` away");
            self.problem(&at, "no other region keeps this shard, so that all of it may be lost", help);
        }
        let past = match past {
            Some(RawPastMaxLoss::Refuse) => PastMaxLoss::Refuse,
            Some(RawPastMaxLoss::Slow) | None => PastMaxLoss::Slow,
        };
        max.map(|max| LossLimit { max, past })
    }

    /// Tables whose writes wait for other regions are on shards that other regions keep.
    fn durable(&mut self, tables: &Tables, shards: &BTreeMap<ShardName, ShardConfig>) {
        let waiting = tables.iter().filter(|table| table.durability > Durability::Local);
        let alone = shards.iter().find(|(_, shard)| shard.stores.len() == 1).map(|(name, _)| name);
        for (table, shard) in waiting.zip(alone.into_iter().cycle()) {
            let (name, word) = (table.name.as_str(), table.durability.as_str());
            self.problem(
                &["table", name, "durability"],
                format!("`{word}` waits for another region, and none keeps shard `{shard}`, which has this table too"),
                format!("add `[shard.{shard}.store.REGION]` in another region, or say `durability = \"local\"`"),
            );
        }
    }

    fn class(&mut self, at: At<'_>, text: &str, classes: &Classes) -> Option<ResidencyName> {
        let class = self.name(at, text, ResidencyName::new)?;
        if !classes.contains_key(&class) {
            let known: Vec<&str> = classes.keys().map(ResidencyName::as_str).collect();
            self.problem(at, format!("there is no residency class `{class}`"), suggest(text, &known));
            return None;
        }
        Some(class)
    }

    fn tables(&mut self, raw: BTreeMap<String, RawTable>) -> Option<Tables> {
        let all: Vec<Option<TenantTable>> =
            raw.into_iter().map(|(name, table)| self.table(&name, table)).collect();
        match Tables::new(all.into_iter().collect::<Option<_>>()?) {
            Ok(tables) => Some(tables),
            Err(error) => {
                self.problem(&["table"], error.to_string(), "change its declaration");
                None
            }
        }
    }

    fn table(&mut self, name: &str, raw: RawTable) -> Option<TenantTable> {
        let at = ["table", name];
        if raw.reference == raw.tenant.is_some() {
            let help =
                "name the column with `tenant`, or say `reference = true` of a table that is everybody's";
            self.problem(&at, "whose are its rows?", help);
            return None;
        }
        let mut column = |key: &'static str, text: &str| match Identifier::new(text) {
            Ok(column) => Some(column),
            Err(error) => {
                self.problem(&["table", name, key], error.to_string(), "rename it, or leave the table out");
                None
            }
        };
        let key: Vec<Identifier> = raw.key.iter().filter_map(|text| column("key", text)).collect();
        let tenant = raw.tenant.as_ref().and_then(|text| column("tenant", text));
        let table_name = Identifier::new(name)
            .map_err(|error| self.problem(&at, error.to_string(), "rename it, or leave the table out"));
        let help = "a rule is `lww`, `column_lww`, `home_wins` or `first_wins`, and beside the first two there may be \
            `{ rule = \"counter\", columns = [...] }`, `set_union`, `max` and `min`; or it is `{ policy = NAME }` alone";
        let conflict = conflict::rule(raw.conflict);
        let conflict = conflict.map_err(|error| self.problem(&["table", name, "conflict"], error, help));
        Some(TenantTable {
            name: table_name.ok()?,
            tenant,
            key,
            conflict: conflict.ok()?,
            writers: match raw.writers {
                RawWriters::Members => Writers::Members,
                RawWriters::Primary => Writers::Primary,
            },
            durability: match raw.durability {
                RawDurability::Local => Durability::Local,
                RawDurability::Majority => Durability::Majority,
                RawDurability::OneRegion => Durability::OneRegion,
            },
        })
    }

    fn hash_key(&mut self, text: &str) -> Option<[u8; 16]> {
        let key = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        if key.is_none() {
            let help = "write 32 hexadecimal digits, as `openssl rand -hex 16` gives them, once and for ever";
            self.problem(&["placement", "key"], "this is no key", help);
        }
        key.map(u128::to_be_bytes)
    }

    fn moving(&mut self, raw: Option<&RawPlacement>) -> Moving {
        let keep = raw.and_then(|raw| raw.keep_moved.clone());
        let rows = raw.and_then(|raw| raw.move_rows_per_second);
        Moving {
            keep: self.time(&["placement", "keep_moved"], keep).unwrap_or(defaults::KEEP_MOVED),
            rows_per_second: rows.unwrap_or(defaults::MOVE_ROWS_PER_SECOND),
        }
    }

    fn rules(
        &mut self,
        raw: Vec<RawRule>,
        shards: &[Shard],
        regions: &BTreeSet<RegionName>,
        classes: &Classes,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (number, rule) in raw.into_iter().enumerate() {
            let number = number.to_string();
            let at = ["placement", "rule", &number];
            let location = rule
                .location
                .map(|region| self.known_region(&[&at[..], &["location"]].concat(), &region, regions));
            let residency =
                rule.residency.map(|class| self.class(&[&at[..], &["residency"]].concat(), &class, classes));
            let mut ranges = Vec::new();
            for (place, range) in rule.ranges.iter().enumerate() {
                let place = place.to_string();
                let at = [&at[..], &["ranges", &place]].concat();
                let last =
                    (range.last.len() == 16).then(|| u64::from_str_radix(&range.last, 16).ok()).flatten();
                if last.is_none() {
                    let help = "write 16 hexadecimal digits";
                    self.problem(&at, format!("`{}` is no hash", range.last), help);
                }
                let shard = self.index(&at, &range.shard, shards);
                ranges.extend(last.zip(shard).map(|(last, shard)| Range { last, shard }));
            }
            rules.push(Rule { location: location.flatten(), ranges, residency: residency.flatten() });
        }
        rules
    }

    /// The rules where none are written: all tenants of a class go to its only shard.
    fn only_shards(&mut self, shards: &[Shard]) -> Vec<Rule> {
        let mut takers: BTreeMap<Option<&ResidencyName>, Vec<(u16, &Shard)>> = BTreeMap::new();
        for (index, shard) in (0..).zip(shards).filter(|(_, shard)| shard.takes_new) {
            takers.entry(shard.residency.as_ref()).or_default().push((index, shard));
        }
        let mut rules = Vec::new();
        for (residency, takers) in takers {
            match takers.as_slice() {
                [(index, _)] => rules.push(Rule {
                    location: None,
                    ranges: vec![Range { last: u64::MAX, shard: ShardIndex(*index) }],
                    residency: residency.cloned(),
                }),
                several => {
                    let names: Vec<&str> = several.iter().map(|(_, shard)| shard.name.as_str()).collect();
                    let indexes: Vec<ShardIndex> =
                        several.iter().map(|(index, _)| ShardIndex(*index)).collect();
                    let rule =
                        Rule { location: None, ranges: even(&[], &indexes), residency: residency.cloned() };
                    let help = format!(
                        "write `[placement]` with a key of your own, and {}",
                        written(&[rule], shards)
                    );
                    let which = names.join("`, `");
                    self.problem(&["shard"], format!("who of `{which}` has which tenants?"), help);
                }
            }
        }
        rules
    }

    fn place(&mut self, name: &str, raw: &RawPlace, shards: &[Shard]) -> Option<(TenantName, Place)> {
        let tenant = self.name(&["place", name], name, TenantName::new);
        let shard = self.index(&["place", name, "shard"], &raw.shard, shards)?;
        let access = match raw.access {
            RawAccess::Held => Access::Held,
            RawAccess::Open => Access::Open,
            RawAccess::Suspended => Access::Suspended,
        };
        Some((tenant?, Place { access, placement: Placement(raw.placement), shard }))
    }

    fn index(&mut self, at: At<'_>, name: &str, shards: &[Shard]) -> Option<ShardIndex> {
        let place = shards.iter().position(|shard| shard.name.as_str() == name);
        if place.is_none() {
            let known: Vec<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
            self.problem(at, format!("there is no shard `{name}`"), suggest(name, &known));
        }
        place.and_then(|place| u16::try_from(place).ok()).map(ShardIndex)
    }
}
