//! Two shards, a control store that fails as it is told to, and who looks on.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_changelog::{Closed, Error as StoreError, Lease};
use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Placement};
use portolan_core::tenant_table::{Tables, TenantTable};
use portolan_core::time::Moment;

use crate::relocate::{
    Answer, Error, Event, Moving, Relocation, Report, Seat, Switch, SwitchError, Switched, Watch, Whereabouts,
};
use crate::schema::tests::place::{Direct, Place, table};
use crate::schema::{Copy, Shard};

/// Lines refer to notes, and to each other; their name comes first.
pub(super) const SCHEMA: [&str; 2] = [
    "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (tenant, id))",
    "CREATE TABLE lines (tenant text NOT NULL, id bigint NOT NULL, note bigint NOT NULL, next bigint, \
     PRIMARY KEY (tenant, id), FOREIGN KEY (tenant, note) REFERENCES notes (tenant, id), \
     FOREIGN KEY (tenant, next) REFERENCES lines (tenant, id))",
];

pub(super) fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

pub(super) fn lease() -> Lease {
    Lease { epoch: Epoch(1), until: Moment(u64::MAX) }
}

/// A shard with the tables of these tests, written here for long.
pub(super) async fn seat(place: &Place) -> Seat {
    seat_with(place, &SCHEMA, vec![table("notes"), table("lines")]).await
}

pub(super) async fn seat_with(place: &Place, schema: &[&str], tables: Vec<TenantTable>) -> Seat {
    let shard = place.primary().await;
    let mut migration = shard.store.maintain().await.unwrap();
    for statement in schema {
        migration.execute(statement, &[]).await.unwrap();
    }
    migration.finish().await.unwrap();
    shard.store.declare(&Tables::new(tables).unwrap(), 1).await.unwrap();
    Seat { epoch: Epoch(1), replicas: None, residency: None, shard: shard.name, store: shard.store }
}

/// A connection that is held by triggers alone.
pub(super) async fn direct(seat: &Seat) -> Direct {
    let (name, store) = (seat.shard.clone(), seat.store.clone());
    Direct::of(&Shard { copy: Copy::Primary, name, store }).await
}

/// Writes a note as a gateway does.
pub(super) async fn write(seat: &Seat, id: i64) -> Result<(), StoreError> {
    let mut write = seat.store.write(&acme(), &lease(), Moment(0)).await?;
    let sql = "INSERT INTO notes VALUES ('acme', $1, 'written')";
    if let Err(error) = write.execute(sql, &[id.into()]).await {
        write.rollback().await?;
        return Err(error);
    }
    write.commit(&lease(), || Moment(0)).await.map(drop)
}

/// The tenant's notes and lines at a shard.
pub(super) async fn rows(seat: &Seat) -> Vec<String> {
    let sql = "SELECT 'note ' || id || ' ' || body FROM notes WHERE tenant = 'acme' UNION ALL \
               SELECT 'line ' || id || ' ' || note FROM lines WHERE tenant = 'acme' ORDER BY 1";
    direct(seat).await.texts(sql).await
}

/// The tenant is at this one, written, and not at the other.
pub(super) async fn lives(here: &Seat, other: &Seat, id: i64) {
    write(here, id).await.unwrap();
    let refused = write(other, id).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed(Closed::Away)), "{refused:?}");
    let state = here.store.tenant(&acme()).await.unwrap();
    assert_eq!((state.away, state.hold), (false, None));
}

/// How the control store answers a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It does it, and says so.
    Answers,
    /// It does it when the move has been closed.
    Late,
    /// It does it, and its answer is lost.
    LostAnswer,
    /// It is never asked.
    LostQuestion,
    /// Another lease has begun.
    Refuses,
}

#[derive(Debug)]
pub(super) struct Control {
    pub(super) away: Mutex<bool>,
    pub(super) mode: Mutex<Mode>,
    place: Mutex<Whereabouts>,
}

impl Control {
    pub(super) fn new(seat: &Seat) -> Self {
        let place = Whereabouts { placement: Placement(0), shard: seat.shard.clone() };
        Self { away: Mutex::default(), mode: Mutex::new(Mode::Answers), place: Mutex::new(place) }
    }

    pub(super) fn is_at(&self, seat: &Seat) -> bool {
        self.place.lock().unwrap().shard == seat.shard
    }

    fn put(&self, moving: &Moving) -> Switched {
        let mut place = self.place.lock().unwrap();
        if place.shard != moving.from.shard || place.placement != moving.from.placement {
            return Switched::Stays;
        }
        *place = Whereabouts { placement: moving.to.placement, shard: moving.to.shard.clone() };
        Switched::Moved
    }
}

fn lost<T>() -> Result<T, SwitchError> {
    Err(SwitchError("lost".to_owned()))
}

impl Switch for Control {
    fn close<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched> {
        Box::pin(async move {
            if *self.away.lock().unwrap() {
                return lost();
            }
            let closed = {
                let mut place = self.place.lock().unwrap();
                if place.shard == moving.to.shard && place.placement == moving.to.placement {
                    Switched::Moved
                } else {
                    place.placement = moving.to.placement;
                    Switched::Stays
                }
            };
            if *self.mode.lock().unwrap() == Mode::Late {
                assert_eq!(self.put(moving), Switched::Stays, "it comes too late");
            }
            Ok(closed)
        })
    }

    fn switch<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched> {
        Box::pin(async move {
            let mode = *self.mode.lock().unwrap();
            match mode {
                Mode::Answers => Ok(self.put(moving)),
                Mode::LostAnswer => {
                    self.put(moving);
                    lost()
                }
                Mode::Late | Mode::LostQuestion => lost(),
                Mode::Refuses => Ok(Switched::Stays),
            }
        })
    }

    fn where_is<'a>(&'a self, _: &'a TenantName) -> Answer<'a, Whereabouts> {
        Box::pin(async move { Ok(self.place.lock().unwrap().clone()) })
    }
}

/// Who looks on: it stops a mover at its nth event, and its clock runs on by a minute at one.
#[derive(Default)]
pub(super) struct Watcher {
    pub(super) late_at: Option<Event>,
    pub(super) name: &'static str,
    pub(super) seen: Mutex<Vec<Event>>,
    pub(super) stop_at: Option<usize>,
    pub(super) ahead_s: AtomicU64,
}

impl Watcher {
    pub(super) fn stops(at: usize) -> Self {
        Self { stop_at: Some(at), ..Self::default() }
    }
}

impl Watch for Watcher {
    fn event(&self, event: &Event) -> ControlFlow<()> {
        let mut seen = self.seen.lock().unwrap();
        seen.push(*event);
        if self.late_at == Some(*event) {
            self.ahead_s.store(60, Ordering::Relaxed);
        }
        if self.stop_at.is_some_and(|at| seen.len() > at) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn mover(&self) -> String {
        self.name.to_owned()
    }

    fn now(&self) -> Moment {
        portolan_foundation::clock::now().plus(Duration::from_secs(self.ahead_s.load(Ordering::Relaxed)))
    }
}

/// Two shards and a tenant at the first.
pub(super) struct World {
    pub(super) control: Arc<Control>,
    pub(super) one: Seat,
    pub(super) tenant: TenantName,
    pub(super) two: Seat,
}

impl World {
    pub(super) async fn new(place: &Place) -> Self {
        let (one, two) = (seat(place).await, seat(place).await);
        let world = Self { control: Arc::new(Control::new(&one)), one, tenant: acme(), two };
        let mut direct = direct(&world.one).await;
        direct
            .ok("INSERT INTO notes VALUES ('acme', 1, 'one'), ('acme', 2, 'two'), ('bolt', 1, 'other')")
            .await;
        direct
            .ok("INSERT INTO lines VALUES ('acme', 1, 2, NULL), ('acme', 2, 1, 1), ('bolt', 1, 1, NULL)")
            .await;
        direct.ok("DELETE FROM notes WHERE tenant = 'acme' AND id = 3").await;
        world
    }

    pub(super) fn relocation<'a>(
        &'a self,
        from: &'a Seat,
        to: &'a Seat,
        watch: &'a Watcher,
    ) -> Relocation<'a> {
        Relocation { from, switch: &*self.control, tenant: &self.tenant, to, watch }
    }

    /// From the first to the second.
    pub(super) async fn there(&self) -> Result<Report, Error> {
        self.relocation(&self.one, &self.two, &Watcher::default()).run().await
    }

    /// Another tenant has what it had, where it was, and is written.
    pub(super) async fn bolt_is_untouched(&self) {
        let mut one = direct(&self.one).await;
        one.ok("UPDATE notes SET body = 'other' WHERE tenant = 'bolt'").await;
        assert_eq!(one.texts("SELECT body FROM notes WHERE tenant = 'bolt'").await, ["other"]);
        assert_eq!(
            direct(&self.two).await.texts("SELECT body FROM notes WHERE tenant = 'bolt'").await,
            [""; 0]
        );
    }
}

/// Each only once.
pub(super) fn set<T: Ord + Clone + std::fmt::Debug>(all: &[T]) -> BTreeSet<T> {
    let set: BTreeSet<T> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "{all:?}");
    set
}
