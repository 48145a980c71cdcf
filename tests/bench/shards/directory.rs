//! Which shard a tenant is on, among millions of tenants with a place of their own.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use portolan_core::directory::{
    Access, Directory, Exceptions, HashKey, Place, Placement, Rule, Shard, ShardIndex, Tenant,
};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;

use crate::{Figures, Size, note};

const SHARDS: u16 = 64;
/// Look-ups of one reading of the clock: names are made before.
const NAMES: usize = 1 << 16;
/// Tenants that are asked for all the time.
const HOT: usize = 256;
const READINGS: usize = 30;

pub(crate) fn measure(size: &Size, figures: &mut Figures) {
    let key = HashKey::new([7; 16]);
    let name = |number: u64| TenantName::new(&format!("tenant-{number}")).unwrap();
    let place = |number: u64| Place {
        access: Access::Open,
        placement: Placement(1),
        shard: ShardIndex(u16::try_from(number % u64::from(SHARDS)).unwrap()),
    };
    // Names that are hashed as they come, as a node does that loads them.
    let begun = Instant::now();
    let all: Vec<_> = (0..size.exceptions).map(|number| (key.of(&name(number)), place(number))).collect();
    let exceptions = Exceptions::from_all(all.into_iter());
    note(figures, "directory.load_s", begun.elapsed().as_secs_f64());
    let bytes = exceptions.table_bytes() as f64 / size.exceptions as f64;
    note(figures, "directory.exception_bytes", bytes);

    let region = RegionName::new("eu").unwrap();
    let shards = (0..SHARDS).map(|number| Shard {
        name: ShardName::new(&format!("s{number}")).unwrap(),
        epoch: Epoch(1),
        external: false,
        primary: region.clone(),
        replicas: std::collections::BTreeSet::new(),
        residency: None,
        takes_new: true,
    });
    let indexes: Vec<ShardIndex> = (0..SHARDS).map(ShardIndex).collect();
    let rules = vec![Rule::even(None, None, &indexes)];
    let directory = Directory::new(key, shards.collect(), rules, exceptions, &BTreeMap::new()).unwrap();
    // Spread over the whole table, so that look-ups miss the caches as those of many tenants do.
    let stride = (size.exceptions / NAMES as u64).max(1);
    let listed: Vec<TenantName> =
        (0..NAMES as u64).map(|number| name(number * stride % size.exceptions)).collect();
    let by_rule: Vec<TenantName> = (0..NAMES as u64).map(|number| name(size.exceptions + number)).collect();
    // Few tenants have most of the requests: theirs are in the caches.
    let hot: Vec<TenantName> = listed.iter().step_by(NAMES / HOT).cloned().collect();
    let hot = hot.iter().cycle().take(NAMES).cloned().collect();
    for (what, names) in [("hot_exception", &hot), ("exception", &listed), ("rule", &by_rule)] {
        let mut readings: Vec<f64> = (0..READINGS).map(|_| once(&directory, names)).collect();
        readings.sort_by(f64::total_cmp);
        note(figures, &format!("directory.{what}.p50_ns"), readings[READINGS / 2]);
    }
}

/// Nanoseconds of one look-up, on average over all names.
fn once(directory: &Directory, names: &[TenantName]) -> f64 {
    let begun = Instant::now();
    for name in names {
        black_box(directory.locate(&Tenant { location: None, name: black_box(name), residency: None }));
    }
    begun.elapsed().as_nanos() as f64 / names.len() as f64
}
