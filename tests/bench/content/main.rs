//! What a change of content costs between regions that have its base: bytes that are sent, and time, beside other tools where they are installed.
//!
//! `cargo bench -p portolan-federation --bench content [-- MEGABYTES]` prints one line for each workload. Every patch is applied and compared. Bytes
//! are exact and the same on each machine; times are this machine's, one thread.

mod peers;
mod work;

use std::ops::Range;
use std::time::{Duration, Instant};

use portolan_federation::Error;
use portolan_federation::cut::{Cutter, Stream};
use portolan_federation::id::Namer;
use portolan_federation::manifest::{Entry, Manifest};
use portolan_federation::patch::{Head, Op, Progress, Rebuild, Step, plan};

/// The size of the large contents when none is given, in megabytes.
const MEGABYTES: usize = 250;

struct Tenant {
    namer: Namer,
    cutter: Cutter,
}

/// What one patch took.
struct Cost {
    sent_bytes: usize,
    encode: Duration,
    apply: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let megabytes = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(MEGABYTES);
    let namer = Namer::new(&[7; 32]);
    let tenant = Tenant { cutter: Cutter::new(&namer), namer };
    let folder = std::env::temp_dir().join(format!("content-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut outcome = Ok(());
    for work in work::all(&folder, megabytes * 1_000_000)? {
        let reported = report(&tenant, &folder, &work);
        outcome = outcome.and(reported);
    }
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn report(
    tenant: &Tenant,
    folder: &std::path::Path,
    work: &work::Work,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let base = tenant.ingest(&work.old)?;
    let ingest = start.elapsed();
    let new = tenant.ingest(&work.new)?;
    let cost = tenant.patch(&base, &new, work)?;
    println!(
        "{:<14} {:>11} B of {:>11}   ingest {:>5.0} MB/s   encode {:>6.2} s   apply {:>5.2} s   {} chunks",
        work.name,
        cost.sent_bytes,
        work.new.len(),
        work.old.len() as f64 / 1e6 / ingest.as_secs_f64(),
        cost.encode.as_secs_f64(),
        cost.apply.as_secs_f64(),
        new.entries().len(),
    );
    for (peer, bytes) in peers::all(folder, work)? {
        println!("{:<14} {bytes:>11} B   {peer}", "");
    }
    match work.most_bytes {
        Some(most) if cost.sent_bytes > most => Err(format!("{}: more than {most} bytes", work.name).into()),
        _ => Ok(()),
    }
}

impl Tenant {
    fn ingest(&self, bytes: &[u8]) -> Result<Manifest, Error> {
        let (mut stream, mut manifest) = (Stream::new(&self.cutter), Manifest::default());
        let mut take = |chunk: &[u8]| {
            manifest
                .push(Entry { id: self.namer.chunk(chunk), bytes: u32::try_from(chunk.len()).unwrap_or(0) })
        };
        for part in bytes.chunks(1 << 20) {
            stream.push(part, &mut take)?;
        }
        stream.finish(&mut take)?;
        Ok(manifest)
    }

    fn patch(&self, base: &Manifest, new: &Manifest, work: &work::Work) -> Result<Cost, Error> {
        let start = Instant::now();
        let head = Head { base: base.root(&self.namer)?, root: new.root(&self.namer)?, bytes: new.bytes() };
        let mut sent = Vec::new();
        for step in plan(base, new) {
            let (old, fresh) = match &step {
                Step::Copy { .. } => (0..0, 0..0),
                Step::Delta { prefix, bytes } => (prefix.clone(), bytes.clone()),
            };
            sent = step.encode(part(&work.old, &old), part(&work.new, &fresh))?.write(sent)?;
        }
        let encode = start.elapsed();
        let start = Instant::now();
        let mut rebuild = Rebuild::new(head, base, &self.namer, &self.cutter, Progress::default())?;
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (op, after) = Op::read(rest)?;
            rebuild.take(&op, part(&work.old, &op.prefix()), |_, _| Ok(()))?;
            rest = after;
        }
        if rebuild.finish()? != *new {
            return Err(Error::Root);
        }
        // The head travels too: two roots and a length.
        Ok(Cost { sent_bytes: sent.len() + 72, encode, apply: start.elapsed() })
    }
}

fn part<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(place(range.start)..place(range.end)).unwrap_or_default()
}
