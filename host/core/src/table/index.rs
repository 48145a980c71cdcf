//! Which rules can match a request at all: lists of rules by tenant, host and first path segment, merged in order.
//!
//! A plan may have thousands of rules, one or a few for each tenant or host. Looking at all of them for every request
//! would cost microseconds; the index leaves those few that name the request's own tenant, host or segment, and those
//! that name none.

use hashbrown::HashMap;

use crate::attribute::{Attribute, Attributes};
use crate::plan::{Rule, RuleId, Test};

/// Below this number of rules, looking at each is as fast as looking them up.
const RULES_MIN: usize = 8;

/// The index of one plan.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// How many rules there are, where they are not indexed.
    plain: Option<u32>,
    tenants: HashMap<Box<str>, Vec<u32>>,
    hosts: HashMap<Box<str>, Vec<u32>>,
    segments: HashMap<Box<str>, Vec<u32>>,
    /// Rules that name none of these.
    rest: Vec<u32>,
}

impl Index {
    pub(super) fn over(rules: &[Rule]) -> Self {
        if rules.len() < RULES_MIN {
            return Self { plain: u32::try_from(rules.len()).ok(), ..Self::default() };
        }
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            index.add(number, rule);
        }
        index
    }

    fn add(&mut self, number: u32, rule: &Rule) {
        for condition in &rule.when {
            let values: Vec<&str> = match &condition.test {
                Test::Is(value) => vec![value],
                Test::Any(lines) => lines.iter().map(|line| &**line).collect(),
                _ => Vec::new(),
            };
            let lists = match condition.attribute {
                Attribute::Tenant => &mut self.tenants,
                Attribute::Host => &mut self.hosts,
                _ => continue,
            };
            if !values.is_empty() {
                values.into_iter().for_each(|value| lists.entry(value.into()).or_default().push(number));
                return;
            }
        }
        for condition in rule.when.iter().filter(|condition| condition.attribute == Attribute::Path) {
            let segment = match &condition.test {
                Test::Is(value) | Test::Prefix(value) => segment(value).map(str::to_owned),
                Test::Pattern(pattern) => {
                    segment(&pattern.to_string()).filter(|part| !part.contains('*')).map(str::to_owned)
                }
                _ => None,
            };
            if let Some(segment) = segment.filter(|segment| !segment.is_empty()) {
                self.segments.entry(segment.into()).or_default().push(number);
                return;
            }
        }
        self.rest.push(number);
    }

    /// The first rule in order that can match and does.
    pub(super) fn first(
        &self,
        request: &impl Attributes,
        matches: impl Fn(RuleId) -> bool,
    ) -> Option<RuleId> {
        if let Some(count) = self.plain {
            return (0..count).map(RuleId).find(|&id| matches(id));
        }
        let tenants = named(&self.tenants, request.value(&Attribute::Tenant).text());
        let hosts = named(&self.hosts, request.value(&Attribute::Host).text());
        let segments = named(&self.segments, request.value(&Attribute::Path).text().and_then(segment));
        let mut lists = [tenants, hosts, segments, &self.rest];
        loop {
            let next = lists.iter().filter_map(|list| list.first().copied()).min()?;
            for list in &mut lists {
                if let Some((first, tail)) = list.split_first()
                    && *first == next
                {
                    *list = tail;
                }
            }
            if matches(RuleId(next)) {
                return Some(RuleId(next));
            }
        }
    }
}

fn named<'a>(lists: &'a HashMap<Box<str>, Vec<u32>>, text: Option<&str>) -> &'a [u32] {
    text.and_then(|text| lists.get(text)).map_or(&[], Vec::as_slice)
}

/// The first segment of a path: `a` in `/a/b`.
fn segment(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}
