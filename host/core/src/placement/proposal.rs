//! What a sharding policy proposes: moves and rules, checked call by call and as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Known, PERMILLE, Picture, View, class, refuse, refuse_unknown};
use crate::directory::{Access, Directory, Range, Rule, ShardIndex};
use crate::ids::{RegionName, ResidencyName, ShardName, TenantName};
use crate::plan::{Refusal, code};

/// Bytes of a reason: it stands beside each move in the plan's object.
const REASON_BYTES_MAX: usize = 200;
/// Points of the line of hashes.
const LINE: u128 = 1 << 64;

/// A tenant that is to go from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Who.
    pub tenant: TenantName,
    /// Where it is.
    pub from: ShardName,
    /// Where it is to be.
    pub to: ShardName,
    /// Why, for people.
    pub reason: String,
}

/// How many tenants a shard has, and would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// The shard.
    pub shard: ShardName,
    /// Now.
    pub before: u64,
    /// After all moves.
    pub after: u64,
    /// What it may have at most.
    pub capacity: Option<u64>,
}

/// A checked plan. Its moves come first; when all are made, its rules say where everybody is.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebalancing {
    /// Tenants that move, by name.
    pub moves: Vec<Move>,
    /// All rules from then on; none when they stay as they are.
    pub rules: Option<Vec<Rule>>,
    /// The largest part of any rule's line that has another owner, in thousandths, rounded up.
    pub line_permille: u32,
    /// How the shards stand before and after, by name.
    pub stands: Vec<Stand>,
}

/// What a policy has written so far.
#[derive(Debug)]
pub struct Proposal {
    moves: BTreeMap<TenantName, (ShardIndex, String)>,
    rules: Vec<(Rule, String)>,
    view: View,
}

impl Rebalancing {
    /// Does everything stay where it is?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.rules.is_none()
    }
}

impl Proposal {
    /// Nothing yet.
    #[must_use]
    pub const fn new(view: View) -> Self {
        Self { moves: BTreeMap::new(), rules: Vec::new(), view }
    }

    /// What the policy may know.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Writes that a known tenant goes to another shard; of two for one tenant, the last counts.
    ///
    /// # Errors
    /// [`Refusal`] for names that do not exist, a shard that takes no such tenant, a tenant that is moving or suspended, and one
    /// move too many. Nothing is written then.
    pub fn relocate(&mut self, tenant: &str, to: &str, reason: &str) -> Result<(), Refusal> {
        let picture = self.view.picture();
        let Some((name, known)) = picture.tenants.get_key_value(tenant) else {
            return refuse_unknown("tenant", tenant);
        };
        let index = picture.taker(to, known.residency.as_ref())?;
        let reason = line(reason)?;
        match picture.directory.locate(&known.tenant(name)) {
            None => return refuse(code::SENSELESS, format!("tenant `{name}` is on no shard")),
            Some(place) if place.access != Access::Open => {
                return refuse(
                    code::FORBIDDEN,
                    format!("tenant `{name}` is held or suspended: it stays where it is"),
                );
            }
            Some(place) if place.shard == index => {
                return refuse(code::SENSELESS, format!("tenant `{name}` is on shard `{to}` already"));
            }
            Some(_) => {}
        }
        let max = self.view.limits().moves_max;
        if self.moves.len() >= max as usize && !self.moves.contains_key(name) {
            return refuse(code::LIMIT, format!("one plan moves at most {max} tenants"));
        }
        self.moves.insert(name.clone(), (index, reason));
        Ok(())
    }

    /// Writes the rule for a class and a location.
    ///
    /// # Errors
    /// [`Refusal`] for names that do not exist, spans that leave a hash without exactly one owner, a shard of another class or one
    /// that is drained and would get more, and more of the line than may move. Nothing is written then.
    pub fn set_rule(
        &mut self,
        residency: Option<&str>,
        location: Option<&str>,
        spans: &[(u64, &str)],
        reason: &str,
    ) -> Result<(), Refusal> {
        let picture = self.view.picture();
        let residency = name(residency, ResidencyName::new, "residency class")?;
        let location = name(location, RegionName::new, "region")?;
        if let Some(class) = residency.as_ref().filter(|class| !picture.residencies.contains_key(*class)) {
            return refuse_unknown("residency class", class.as_str());
        }
        let reason = line(reason)?;
        let mut ranges = Vec::with_capacity(spans.len());
        for &(last, shard) in spans {
            let Some((index, _)) = picture.find(shard) else { return refuse_unknown("shard", shard) };
            ranges.push(Range { last, shard: index });
        }
        let rule = Rule { location, ranges, residency };
        // As a directory of its own, so that whatever holds for rules is said in one place.
        picture.with_rules(vec![rule.clone()])?;
        let moved = picture.gains(&rule)?;
        let max = self.view.limits().line_permille_max;
        if permille(moved) > u64::from(max) {
            return refuse(
                code::LIMIT,
                format!(
                    "the rule for {} gives {} thousandths of the line to other shards, {max} are allowed: go in steps",
                    class(rule.residency.as_ref()),
                    permille(moved)
                ),
            );
        }
        self.rules.retain(|(other, _)| other.residency != rule.residency || other.location != rule.location);
        self.rules.push((rule, reason));
        Ok(())
    }

    /// Checks all of it together, and adds the moves that new rules make necessary.
    ///
    /// # Errors
    /// [`Refusal`] when it moves more than it may, or a shard would get more than its capacity.
    pub fn finish(self) -> Result<Rebalancing, Refusal> {
        let picture = self.view.picture();
        let now = picture.directory.rules();
        let mut rules = now.to_vec();
        let mut line_permille = 0;
        for (rule, _) in &self.rules {
            line_permille = line_permille.max(permille(picture.gains(rule)?));
            put(&mut rules, rule.clone());
        }
        let next = picture.with_rules(rules)?;
        let mut moves = Vec::new();
        for (name, known) in &picture.tenants {
            moves.extend(self.moved(&next, name, known)?);
        }
        let max = self.view.limits().moves_max;
        if moves.len() > max as usize {
            let count = moves.len();
            return refuse(
                code::LIMIT,
                format!("the plan moves {count} tenants, {max} are allowed: go in steps"),
            );
        }
        let stands = picture.stands(&moves)?;
        let rules = (next.rules() != now).then(|| next.rules().to_vec());
        let line_permille = u32::try_from(line_permille).unwrap_or(u32::MAX);
        Ok(Rebalancing { moves, rules, line_permille, stands })
    }

    /// The move of one tenant: its own, or the one that a rule makes.
    fn moved(&self, next: &Directory, name: &TenantName, known: &Known) -> Result<Option<Move>, Refusal> {
        let picture = self.view.picture();
        let Some(place) = picture.directory.locate(&known.tenant(name)) else { return Ok(None) };
        let by_rule = next.locate(&known.tenant(name)).map_or(place.shard, |place| place.shard);
        let (to, reason) = match self.moves.get(name) {
            Some((to, reason)) => (*to, reason.clone()),
            None if by_rule != place.shard => {
                let of = |(rule, _): &&(Rule, String)| rule.residency == known.residency;
                // Of several new rules of a class, the one with the tenant's location comes first.
                let mut about = self.rules.iter().filter(of);
                let own =
                    |(rule, _): &&(Rule, String)| rule.location.is_some() && rule.location == known.location;
                let by = about.clone().find(own).or_else(|| about.find(|(rule, _)| rule.location.is_none()));
                (by_rule, by.map_or_else(|| "a rule has changed".to_owned(), |(_, reason)| reason.clone()))
            }
            None => return Ok(None),
        };
        let shard = |index| {
            let found = picture.directory.shard(index).map(|shard| shard.name.clone());
            found.ok_or_else(|| Refusal { code: code::UNKNOWN, message: "a shard without a name".to_owned() })
        };
        Ok(Some(Move { tenant: name.clone(), from: shard(place.shard)?, to: shard(to)?, reason }))
    }
}

impl Picture {
    /// The directory with other rules.
    fn with_rules(&self, rules: Vec<Rule>) -> Result<Directory, Refusal> {
        let (now, shards) = (&self.directory, self.directory.shards().to_vec());
        let next = Directory::new(*now.key(), shards, rules, now.exceptions().clone(), &self.residencies);
        next.map_err(|invalid| Refusal { code: code::VALUE, message: invalid.to_string() })
    }

    /// How much of the line gets another owner by a rule; refused when one that is drained gets any.
    fn gains(&self, rule: &Rule) -> Result<u128, Refusal> {
        let own = self.rule(rule.residency.as_ref(), rule.location.as_ref());
        // Who had no rule of its own was placed by the one for the whole class.
        let now = own.or_else(|| self.rule(rule.residency.as_ref(), None));
        let mut ends: Vec<u64> = rule.ranges.iter().map(|range| range.last).collect();
        ends.extend(now.into_iter().flat_map(|now| &now.ranges).map(|range| range.last));
        ends.sort_unstable();
        ends.dedup();
        let (mut moved, mut begin) = (0, 0);
        for last in ends {
            let next = u128::from(last) + 1;
            let (had, has) = (now.and_then(|now| now.owner(last)), rule.owner(last));
            if had != has {
                let shard = has.and_then(|index| self.directory.shard(index));
                if let Some(shard) = shard.filter(|shard| !shard.takes_new) {
                    let drained = format!("shard `{}` is drained: a rule may not give it more", shard.name);
                    return refuse(code::FORBIDDEN, drained);
                }
                // Where there was no rule there was nobody to move.
                moved += if had.is_some() { next - begin } else { 0 };
            }
            begin = next;
        }
        Ok(moved)
    }

    /// How the shards stand after moves; refused when one that gets tenants has too many then.
    fn stands(&self, moves: &[Move]) -> Result<Vec<Stand>, Refusal> {
        let mut stands: BTreeMap<&ShardName, (u64, u64)> = BTreeMap::new();
        for (name, index) in &self.indexes {
            stands.insert(name, (self.count(*index), self.count(*index)));
        }
        for one in moves {
            stands.entry(&one.from).and_modify(|(_, after)| *after = after.saturating_sub(1));
            stands.entry(&one.to).and_modify(|(_, after)| *after += 1);
        }
        let mut all = Vec::with_capacity(stands.len());
        for (shard, (before, after)) in stands {
            let capacity = self.capacity(shard);
            if let Some(capacity) = capacity.filter(|capacity| after > before && after > *capacity) {
                return refuse(
                    code::LIMIT,
                    format!("shard `{shard}` would have {after} tenants, its capacity is {capacity}"),
                );
            }
            all.push(Stand { shard: shard.clone(), before, after, capacity });
        }
        Ok(all)
    }
}

/// Puts a rule in the place of its like; a new one with a location before those of its class without.
fn put(rules: &mut Vec<Rule>, rule: Rule) {
    let same = |other: &Rule| other.residency == rule.residency && other.location == rule.location;
    if let Some(place) = rules.iter_mut().find(|other| same(other)) {
        *place = rule;
        return;
    }
    let wide = |other: &Rule| other.residency == rule.residency && other.location.is_none();
    let at = rules.iter().position(wide).filter(|_| rule.location.is_some()).unwrap_or(rules.len());
    rules.insert(at, rule);
}

fn permille(part: u128) -> u64 {
    u64::try_from((part * u128::from(PERMILLE)).div_ceil(LINE)).unwrap_or(u64::MAX)
}

fn name<N, E: std::fmt::Display>(
    text: Option<&str>,
    new: impl FnOnce(&str) -> Result<N, E>,
    what: &str,
) -> Result<Option<N>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    new(text).map(Some).map_err(|error| Refusal { code: code::VALUE, message: format!("a {what}: {error}") })
}

/// A reason as it may be kept.
fn line(reason: &str) -> Result<String, Refusal> {
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return refuse(code::VALUE, format!("a reason is one line of at most {REASON_BYTES_MAX} bytes"));
    }
    Ok(reason.to_owned())
}
