//! A copy that begins without a row: from its first word on the link until it has all that its source has. PostgreSQL's own is the initial
//! copy of a subscription's table.

use crate::side::{Side, Spent, WRITERS};
use crate::{Figures, Sides, Size, note, over_native, rate, spent};

/// Rows of one transaction.
const BATCH: i64 = 100;

pub(crate) async fn measure(size: &Size, sides: &mut Sides, figures: &mut Figures) {
    let rows = |side: &Side| side.written.iter().sum::<i64>();
    let wanted = sides.iter().map(rows).fold(size.snapshot, i64::max);
    let mut sums = [Spent::default(); 3];
    for side in &mut *sides {
        let missing = wanted - rows(side);
        side.write_only(round_up(missing), BATCH).await;
        side.is_copied().await;
    }
    for round in 0..size.rounds {
        for turn in 0..sides.len() {
            let number = (round + turn) % sides.len();
            let side = &mut sides[number];
            let (spent, begun) = side.copy_anew().await;
            side.is_copied().await;
            let wall = begun.elapsed().as_secs_f64();
            let spent = side.settled(&spent, rows(side), wall).await;
            sums[number].add(&spent);
        }
    }
    for (side, sum) in sides.iter().zip(&sums) {
        spent(figures, &format!("snapshot.{}", side.name), sum);
        note(figures, &format!("wire.snapshot.{}.bytes_per_row", side.name), sum.bytes / sum.rows);
    }
    over_native(figures, "snapshot", "cpu", &sums, Spent::cpu);
    over_native(figures, "snapshot", "rows_per_s", &sums, rate);
}

/// Whole transactions of all writers.
const fn round_up(rows: i64) -> i64 {
    let step = WRITERS as i64 * BATCH;
    (rows + step - 1) / step * step
}
