//! A region's copy of a shard: a log, and the fence that says until when it may be written.
//!
//! Rows are numbered from 1 and known by the epoch that wrote them, so that a log is a few spans.

/// A copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Copy {
    /// Spans of the log: the epoch that wrote them, and its last row.
    pub(super) spans: Vec<(u64, u64)>,
    /// The last epoch that is known to have begun.
    pub(super) term: u64,
    /// The fence: an epoch, and until when by the database's clock.
    pub(super) fence: u64,
    pub(super) deadline_us: u64,
    /// The most rows that its primary was known to have.
    pub(super) head: u64,
    /// Rows that its last epoch began with here.
    pub(super) begun: u64,
    /// What other regions have received, where this is the primary.
    pub(super) received: Vec<u64>,
    /// When the last row was written that is here, by true time.
    pub(super) written_us: u64,
    /// When its primary was heard last.
    pub(super) heard_us: u64,
    /// The log's rows when a later epoch cut it: that epoch, and how many.
    pub(super) ended: Vec<(u64, u64)>,
}

impl Copy {
    pub(super) fn rows(&self) -> u64 {
        self.spans.last().map_or(0, |(_, end)| *end)
    }

    /// Writes one row, if the fence lets it.
    pub(super) fn write(&mut self, epoch: u64, clock_us: u64, now_us: u64) -> bool {
        if self.fence != epoch || self.term != epoch || clock_us >= self.deadline_us {
            return false;
        }
        let rows = self.rows() + 1;
        match self.spans.last_mut() {
            Some((at, end)) if *at == epoch => *end = rows,
            _ => self.spans.push((epoch, rows)),
        }
        (self.head, self.written_us) = (rows, now_us);
        true
    }

    /// An epoch begins here.
    pub(super) fn begin(&mut self, epoch: u64, deadline_us: u64, regions: usize) -> bool {
        if epoch <= self.fence {
            return self.fence == epoch && self.deadline_us > 0;
        }
        (self.fence, self.term, self.deadline_us) = (epoch, epoch, deadline_us);
        (self.head, self.begun) = (self.rows(), self.rows());
        self.received = vec![0; regions];
        true
    }

    pub(super) fn extend(&mut self, epoch: u64, deadline_us: u64) {
        if self.fence == epoch && self.deadline_us > 0 {
            self.deadline_us = self.deadline_us.max(deadline_us);
        }
    }

    pub(super) fn close(&mut self, epoch: u64) {
        if self.fence <= epoch {
            self.deadline_us = 0;
        }
    }

    /// Takes nothing of an earlier epoch any more.
    pub(super) fn seal(&mut self, epoch: u64) {
        if self.fence < epoch {
            (self.fence, self.deadline_us) = (epoch, 0);
        }
    }

    /// The rows that two logs share from the beginning.
    fn shared(&self, other: &Self) -> u64 {
        let mut shared = 0;
        for ((epoch, end), (other_epoch, other_end)) in self.spans.iter().zip(&other.spans) {
            if epoch != other_epoch {
                break;
            }
            shared = (*end).min(*other_end);
            if end != other_end {
                break;
            }
        }
        shared
    }

    fn cut(&mut self, rows: u64) {
        while let Some((_, end)) = self.spans.last().copied() {
            let before = self.spans.len().checked_sub(2).map_or(0, |at| self.spans[at].1);
            if before >= rows {
                self.spans.pop();
                continue;
            }
            self.spans.last_mut().unwrap().1 = end.min(rows);
            break;
        }
    }

    /// Takes rows of another log, so many at most. Where a later epoch has begun there, what this log has beyond it is put aside.
    pub(super) fn follow(&mut self, source: &Self, most: u64) {
        if source.term < self.term {
            return;
        }
        let shared = self.shared(source);
        if shared < self.rows() {
            if source.term == self.term {
                return;
            }
            self.ended.push((source.term, self.rows()));
            self.cut(shared);
        } else if source.term > self.term {
            self.ended.push((source.term, self.rows()));
        }
        self.term = source.term;
        let mut left = most.min(source.rows().saturating_sub(shared));
        for (epoch, end) in &source.spans {
            let rows = self.rows();
            if *end <= rows || left == 0 {
                continue;
            }
            let taken = left.min(end - rows);
            left -= taken;
            match self.spans.last_mut() {
                Some((at, here)) if at == epoch => *here += taken,
                _ => self.spans.push((*epoch, rows + taken)),
            }
        }
        self.head = source.rows();
        if self.rows() == source.rows() {
            self.written_us = source.written_us;
        }
    }

    /// The same over a link: not of a source that is behind the fence.
    pub(super) fn replicate(&mut self, source: &Self, most: u64) -> bool {
        if source.fence < self.fence || source.term < self.term {
            return false;
        }
        self.follow(source, most);
        self.seal(source.term);
        self.rows() <= source.rows()
    }

    /// Rows beyond those that an epoch began with, which began elsewhere.
    pub(super) fn count(&mut self, epoch: u64, cut_rows: u64) -> u64 {
        let ended = self.ended.iter().find(|(at, _)| *at >= epoch).map(|(_, rows)| *rows);
        self.seal(epoch);
        ended.unwrap_or_else(|| self.rows()).saturating_sub(cut_rows)
    }
}

#[test]
fn logs_share_cut_and_count() {
    let mut eu = Copy::default();
    assert!(eu.begin(1, 100, 2));
    let mut us = Copy::default();
    for now in 0..10 {
        assert!(eu.write(1, 50, now));
    }
    assert!(us.replicate(&eu, 7));
    assert_eq!((us.rows(), us.head), (7, 10));
    us.seal(2);
    assert!(!us.replicate(&eu, 7), "it is sealed");
    assert!(us.begin(3, 100, 2) && us.write(3, 50, 11));
    assert!(!eu.write(1, 100, 12), "the deadline has passed");
    assert!(eu.replicate(&us, 100));
    assert_eq!((eu.rows(), eu.spans.clone()), (8, vec![(1, 7), (3, 8)]));
    assert_eq!(eu.count(3, 7), 3);
}
