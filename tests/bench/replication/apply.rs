//! Rows as fast as they are taken, until all copies have them: in transactions of one row and of many.

use crate::side::{Side, Spent};
use crate::{Figures, Sides, Size, histogram, note, over_native, quantiles, rate, spent};

/// Rows of one transaction.
const BATCH: i64 = 100;

pub(crate) async fn measure(size: &Size, sides: &mut Sides, peers: &str, figures: &mut Figures) {
    let mut alone = Side::alone().await;
    alone.warm_up().await;
    for (what, rows, of) in [("single", size.single, 1), ("batched", size.batched, BATCH)] {
        let name = format!("apply.{peers}.{what}");
        let (mut sums, mut writing) = ([Spent::default(); 3], Spent::default());
        let (mut lags, mut unseen) = ([histogram(), histogram(), histogram()], histogram());
        for round in 0..size.rounds {
            let mut turn: Vec<_> = sides.iter_mut().zip(&mut sums).zip(&mut lags).collect();
            turn.push(((&mut alone, &mut writing), &mut unseen));
            let others = turn.len();
            turn.rotate_left(round % others);
            for ((side, sum), lag) in turn {
                let spent = side.write_and_wait(rows, of, lag).await;
                eprintln!(
                    "  round {round}: {what} {:9} {:8.0} rows/s {:8.2} s CPU for a million",
                    side.name,
                    rate(&spent),
                    spent.cpu() / spent.rows * 1e6
                );
                sum.add(&spent);
            }
        }
        for ((side, sum), lag) in sides.iter().zip(&sums).zip(&lags) {
            spent(figures, &format!("{name}.{}", side.name), sum);
            quantiles(figures, &format!("{name}.{}.lag", side.name), lag);
            let copies = sum.rows * side.copies.len() as f64;
            note(figures, &format!("wire.{peers}.{what}.{}.bytes_per_row", side.name), sum.bytes / copies);
        }
        note(figures, &format!("{name}.alone.rows_per_s"), rate(&writing));
        note(figures, &format!("{name}.alone.cpu_s_per_million_rows"), writing.cpu() / writing.rows * 1e6);
        over_native(figures, &name, "cpu", &sums, Spent::cpu);
        // What of each is not the writing itself.
        over_native(figures, &name, "cpu_beyond_writing", &sums, |sum| sum.cpu() - writing.cpu());
    }
}
