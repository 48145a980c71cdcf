//! How far a copy is behind a source that is written at a steady pace: 5,000 rows a second, ten in a transaction.

use std::time::Duration;

use crate::side::Spent;
use crate::{Figures, Sides, Size, histogram, note, over_native, quantiles, rate, spent};

const RATE: i64 = 5_000;
/// Rows of one transaction.
const BATCH: i64 = 10;

pub(crate) async fn measure(size: &Size, sides: &mut Sides, figures: &mut Figures) {
    let every = Duration::from_secs(1) / u32::try_from(RATE / BATCH).unwrap();
    let (mut sums, mut lags) = ([Spent::default(); 3], [histogram(), histogram(), histogram()]);
    for round in 0..size.rounds {
        for turn in 0..sides.len() {
            let number = (round + turn) % sides.len();
            let lag = &mut lags[number];
            let spent = sides[number].write_at_pace(RATE * size.seconds, BATCH, every, lag).await;
            sums[number].add(&spent);
        }
    }
    for ((side, sum), lag) in sides.iter().zip(&sums).zip(&lags) {
        spent(figures, &format!("lag.{}", side.name), sum);
        quantiles(figures, &format!("lag.{}", side.name), lag);
        // A lag behind a source that was written more slowly is another one.
        let missing = 1.0 - rate(sum) / RATE as f64;
        note(figures, &format!("lag.{}.short_of_pace_percent", side.name), missing.max(0.0) * 100.0);
        note(figures, &format!("wire.steady.{}.bytes_per_row", side.name), sum.bytes / sum.rows);
    }
    over_native(figures, "lag", "cpu", &sums, Spent::cpu);
}
