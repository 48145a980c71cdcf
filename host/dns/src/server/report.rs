//! What the server counts, and how an operator is told of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What is counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What was counted since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Report {
            /// What is counted, by name.
            #[must_use]
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl Counters {
            pub(crate) fn report(&self) -> Report {
                Report { $($name: self.$name.read(),)* }
            }
        }
    };
}

counters! {
    /// Questions that were answered, also by saying that a name has no such records.
    answered,
    /// Connections that were closed because there were too many.
    connections_refused,
    /// Questions for names that are not there.
    denied,
    /// Answers that were held back because a network was sent too many.
    held_back,
    /// Packets that were answered by nothing, because they are no questions.
    ignored,
    /// Packets, over UDP and TCP.
    packets,
    /// Questions for what is not ours.
    refused,
    /// Answers of a network that was sent too many which were sent truncated.
    slipped,
    /// Zones that were handed out to secondaries.
    transfers,
    /// Transfers and signed questions that were refused.
    transfers_refused,
    /// Answers that were truncated, for want of room or on purpose.
    truncated,
    /// Packets that were answered with what is wrong with them.
    wrong,
}
