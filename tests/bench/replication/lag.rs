//! How far a copy is behind a source that is written at a steady pace: 5,000 rows a second, ten in a transaction.

use std::time::Duration;

use crate::side::{Side, Spent};
use crate::{Figures, Size, histogram, note, quantiles, spent};

const RATE: i64 = 5_000;
/// Rows of one transaction.
const BATCH: i64 = 10;

pub(crate) async fn measure(size: &Size, sides: &mut [Side; 2], figures: &mut Figures) {
    let every = Duration::from_secs(1) / u32::try_from(RATE / BATCH).unwrap();
    let (mut sums, mut lags) = ([Spent::default(); 2], [histogram(), histogram()]);
    for round in 0..size.rounds {
        for turn in 0..2 {
            let number = (round + turn) % 2;
            let lag = &mut lags[number];
            let spent = sides[number].write_at_pace(RATE * size.seconds, BATCH, every, lag).await;
            sums[number].add(&spent);
        }
    }
    for ((side, sum), lag) in sides.iter().zip(&sums).zip(&lags) {
        spent(figures, &format!("lag.{}", side.name), sum);
        quantiles(figures, &format!("lag.{}", side.name), lag);
        // A lag behind a source that was written more slowly is another one.
        let missing = 1.0 - sum.rows / sum.wall / RATE as f64;
        note(figures, &format!("lag.{}.short_of_pace_percent", side.name), missing.max(0.0) * 100.0);
        note(figures, &format!("wire.steady.{}.bytes_per_row", side.name), sum.bytes / sum.rows);
    }
    note(figures, "lag.cpu_over_native", sums[0].cpu() / sums[1].cpu());
}
