//! A copy whose link was cut while rows were written: from the moment at which it asks again until it has them all. What writing them took
//! is not counted.

use crate::side::{Side, Spent};
use crate::{Figures, Sides, Size, note, over_native, rate, spent};

/// Rows of one transaction.
const BATCH: i64 = 100;

pub(crate) async fn measure(size: &Size, sides: &mut Sides, figures: &mut Figures) {
    let mut sums = [Spent::default(); 3];
    for round in 0..size.rounds {
        for turn in 0..sides.len() {
            let number = (round + turn) % sides.len();
            let spent = catch_up(&mut sides[number], size.away).await;
            sums[number].add(&spent);
        }
    }
    for (side, sum) in sides.iter().zip(&sums) {
        spent(figures, &format!("away.{}", side.name), sum);
        note(figures, &format!("wire.away.{}.bytes_per_row", side.name), sum.bytes / sum.rows);
    }
    over_native(figures, "away", "cpu", &sums, Spent::cpu);
    over_native(figures, "away", "rows_per_s", &sums, rate);
}

async fn catch_up(side: &mut Side, rows: i64) -> Spent {
    let to = side.line.cut().expect("it led to the source");
    let (before, after) = side.write_only(rows, BATCH).await;
    let spent = side.spent();
    side.line.leads_to(to);
    let begun = side.line.used().await;
    side.catches_up(before, after, BATCH).await;
    let wall = begun.elapsed().as_secs_f64();
    side.settled(&spent, rows, wall).await
}
