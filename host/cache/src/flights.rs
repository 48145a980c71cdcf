//! One question at a time: who asks an origin for a resource takes a permit, and others who want the same wait for its answer, or for
//! its content as it comes. Whatever becomes of the permit, they go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::live::Live;
use crate::locked;
use crate::stored::{Key, Stored};

/// What is known of a question.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Asking,
    /// The answer comes: everything of it but its content, and that as it comes.
    Coming(Arc<Coming>),
    /// There is nothing to wait for any more.
    Over,
}

/// An answer whose content is coming.
#[derive(Debug)]
pub(crate) struct Coming {
    pub(crate) length: Option<u64>,
    pub(crate) live: Arc<Live>,
    /// Without its content.
    pub(crate) stored: Stored,
}

/// All questions that are open.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, watch::Sender<State>>>);

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Turn {
    Mine(Permit),
    Theirs(watch::Receiver<State>),
}

/// The turn to ask. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    flights: Arc<Flights>,
    key: Key,
}

impl Flights {
    /// Takes the turn, or waits for whoever has it.
    pub(crate) fn join(self: &Arc<Self>, key: Key) -> Turn {
        let mut open = locked(self.0.lock());
        if let Some(state) = open.get(&key) {
            return Turn::Theirs(state.subscribe());
        }
        open.insert(key, watch::Sender::new(State::Asking));
        Turn::Mine(Permit { flights: Arc::clone(self), key })
    }

    /// Questions that are open.
    pub(crate) fn count(&self) -> usize {
        locked(self.0.lock()).len()
    }
}

impl Permit {
    /// The answer comes.
    pub(crate) fn coming(&self, coming: Arc<Coming>) {
        let open = locked(self.flights.0.lock());
        if let Some(state) = open.get(&self.key) {
            state.send_replace(State::Coming(coming));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let state = locked(self.flights.0.lock()).remove(&self.key);
        state.into_iter().for_each(|state| _ = state.send_replace(State::Over));
    }
}

/// What comes of waiting.
pub(crate) async fn news(mut waiting: watch::Receiver<State>) -> State {
    let state = waiting.wait_for(|state| !matches!(state, State::Asking)).await;
    state.map_or(State::Over, |state| state.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_asks_and_others_wait_until_the_permit_ends() {
        let flights = Arc::new(Flights::default());
        let (key, other) = (Key([1; 32]), Key([2; 32]));
        let Turn::Mine(permit) = flights.join(key) else { panic!("nobody asks yet") };
        assert!(matches!(flights.join(other), Turn::Mine(_)));
        let Turn::Theirs(waiting) = flights.join(key) else { panic!("somebody asks") };
        let ends = async {
            tokio::task::yield_now().await;
            drop(permit);
        };
        let (state, ()) = tokio::join!(news(waiting), ends);
        assert!(matches!(state, State::Over));
        assert_eq!(flights.count(), 0);
        assert!(matches!(flights.join(key), Turn::Mine(_)));
    }
}
