//! Rows as fast as they are taken, until all copies have them: in transactions of one row and of many.

use crate::side::{Side, Spent};
use crate::{Figures, Size, histogram, note, quantiles, spent};

/// Rows of one transaction.
const BATCH: i64 = 100;

pub(crate) async fn measure(size: &Size, sides: &mut [Side; 2], peers: &str, figures: &mut Figures) {
    let mut alone = Side::alone().await;
    alone.warm_up().await;
    for (what, rows, of) in [("single", size.single, 1), ("batched", size.batched, BATCH)] {
        let name = format!("apply.{peers}.{what}");
        let ([mut own, mut other, mut writing], mut lags) =
            ([Spent::default(); 3], [histogram(), histogram(), histogram()]);
        for round in 0..size.rounds {
            let [portolan, native] = &mut *sides;
            let mut turn = [(portolan, &mut own), (native, &mut other), (&mut alone, &mut writing)];
            turn.rotate_left(round % 3);
            for (side, sum) in turn {
                let lag = &mut lags[place(side.name)];
                let spent = side.write_and_wait(rows, of, lag).await;
                eprintln!(
                    "  round {round}: {what} {:9} {:8.0} rows/s {:8.2} s CPU for a million",
                    side.name,
                    spent.rows / spent.wall,
                    spent.cpu() / spent.rows * 1e6
                );
                sum.add(&spent);
            }
        }
        for ((side, sum), lag) in [("portolan", &own), ("native", &other)].into_iter().zip(&lags) {
            spent(figures, &format!("{name}.{side}"), sum);
            quantiles(figures, &format!("{name}.{side}.lag"), lag);
            let copies = sum.rows * sides[0].copies.len() as f64;
            note(figures, &format!("wire.{peers}.{what}.{side}.bytes_per_row"), sum.bytes / copies);
        }
        note(figures, &format!("{name}.alone.rows_per_s"), writing.rows / writing.wall);
        note(figures, &format!("{name}.alone.cpu_s_per_million_rows"), writing.cpu() / writing.rows * 1e6);
        note(figures, &format!("{name}.cpu_over_native"), own.cpu() / other.cpu());
        // What of both is not the writing itself.
        let beyond = |sum: &Spent| sum.cpu() - writing.cpu();
        note(figures, &format!("{name}.cpu_beyond_writing_over_native"), beyond(&own) / beyond(&other));
    }
}

fn place(name: &str) -> usize {
    ["portolan", "native"].iter().position(|side| *side == name).unwrap_or(2)
}
