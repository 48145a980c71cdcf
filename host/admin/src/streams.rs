//! Places for streams and for requests: so many in all, so many for one caller, so that none keeps the others out; and the end of
//! a stream whose caller may no longer listen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::api::Api;
use crate::caller::Caller;
use crate::defaults::{REQUESTS_OF_ONE_MAX, STREAM_LIFE, STREAMS_MAX, STREAMS_OF_ONE_MAX};
use crate::problem::{Code, Problem};

/// Who streams now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<String, usize>>>);

/// A place; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Place {
    caller: Caller,
    ends: Instant,
    streams: Streams,
}

impl Streams {
    /// Takes a place.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<Place, Problem> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, own) = (all.values().sum::<usize>(), all.get(&caller.id).copied().unwrap_or(0));
        if own >= STREAMS_OF_ONE_MAX {
            return Err(Problem::new(
                Code::TooMany,
                format!("you have {own} streams already, which is what one caller may have: end one"),
            ));
        }
        // One place is kept for the machine's own people, who come to see why all others are taken.
        let own_people = caller.way == crate::Way::Socket;
        if total >= STREAMS_MAX + usize::from(own_people) * STREAMS_OF_ONE_MAX {
            return Err(Problem::new(Code::TooMany, "all streams of this node are taken: come again later"));
        }
        all.insert(caller.id.clone(), own + 1);
        drop(all);
        Ok(Place { caller: caller.clone(), ends: Instant::now() + STREAM_LIFE, streams: self.clone() })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Place {
    /// May its caller still listen? Asked with each beat.
    pub(crate) async fn holds(&self, api: &Api) -> bool {
        Instant::now() < self.ends && api.still(&self.caller).await
    }

    /// Whose it is.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        leave(&self.streams.0, &self.caller.id);
    }
}

/// Who asks now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<HashMap<String, usize>>>);

/// A request that runs; dropping it makes room for the next.
#[derive(Debug)]
pub(crate) struct Asking {
    caller: String,
    requests: Requests,
}

impl Requests {
    /// Takes a place.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<Asking, Problem> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(&caller.id).copied().unwrap_or(0);
        if own >= REQUESTS_OF_ONE_MAX {
            let detail =
                format!("{own} requests of yours run, which is what one caller may have: wait for them");
            return Err(Problem::new(Code::TooMany, detail));
        }
        all.insert(caller.id.clone(), own + 1);
        drop(all);
        Ok(Asking { caller: caller.id.clone(), requests: self.clone() })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        leave(&self.requests.0, &self.caller);
    }
}

fn leave(places: &Mutex<HashMap<String, usize>>, caller: &str) {
    let mut all = places.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(count) = all.get_mut(caller) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            all.remove(caller);
        }
    }
}
