//! What operators say of failover, as an object of the control store: who said it, and why, is in its log.

use anyhow::{Context as _, anyhow, ensure};
use portolan_control::{Conflict, Draft, Error, Expect, Key, Manager, State, Store, Wish};
use portolan_failover::intent::Intents;
use portolan_foundation::clock;
use serde_json::Value;

/// The kind of the object.
const KIND: &str = "failover";
/// Its name.
const NAME: &str = "words";
/// How often it is written again that another change came before.
const TRIES: usize = 10;
/// Moves that are asked for at once; more is an operator's script gone wild.
const FORCED_MAX: usize = 10_000;

/// What holds, by a state of the store. What is not understood holds nothing, and is told.
pub(super) fn of(state: &State) -> Intents {
    let body = Key::new(KIND, NAME).ok().and_then(|key| Some(state.get(&key)?.body.clone()));
    let Some(body) = body else { return Intents::default() };
    serde_json::from_value(Value::Object(body)).unwrap_or_else(|error| {
        tracing::error!("what operators say of failover is not understood, and holds nothing: {error}");
        Intents::default()
    })
}

/// Changes what operators say; what has ended goes.
///
/// # Errors
/// When the store does not take it, or the change is refused.
pub(super) async fn change(
    store: &Store,
    (author, message): (&str, &str),
    change: impl Fn(&mut Intents) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let key = Key::new(KIND, NAME).context("name the object")?;
    for _ in 0..TRIES {
        store.refresh().await?;
        let state = store.state();
        let mut words = of(&state).at(clock::unix_ms());
        change(&mut words)?;
        ensure!(words.force.len() <= FORCED_MAX, "{FORCED_MAX} moves at a time are enough");
        let Value::Object(body) = serde_json::to_value(&words)? else {
            return Err(anyhow!("they are no object"));
        };
        let expect = state.get(&key).map_or(Expect::Absent, |object| Expect::Revision(object.revision));
        let wish =
            Wish { key: key.clone(), body: Some(body), expect, manager: Manager::Api, take_over: true };
        let draft = Draft {
            author: author.to_owned(),
            message: message.to_owned(),
            source: "failover".to_owned(),
            wishes: vec![wish],
        };
        match store.commit(&draft).await {
            Err(Error::Conflict(Conflict::Stale { .. })) => {}
            done => {
                done?;
                return Ok(store.state().generation());
            }
        }
    }
    Err(anyhow!("others changed it all the time: try again"))
}
