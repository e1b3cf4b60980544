//! Transaction ids and snapshots: which transactions' writes a statement sees.
//!
//! An aborted transaction's writes are taken back at once, so a writer that is met in the store is either still
//! active or committed, and no table of outcomes has to be kept.

/// The id of a transaction that writes or locks, rising in the order of its first such statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Xid(pub(super) u64);

/// Which transactions had committed at one moment: all below `next` that weren't in progress.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) next: Xid,
    pub(super) in_progress: Vec<Xid>,
}

impl Snapshot {
    /// Whether `xid` had committed, given that it didn't abort.
    pub(super) fn had_committed(&self, xid: Xid) -> bool {
        xid < self.next && !self.in_progress.contains(&xid)
    }

    /// Every transaction below this had ended.
    pub(super) fn horizon(&self) -> Xid {
        self.in_progress.first().copied().unwrap_or(self.next)
    }
}

/// The statement that wrote something: its transaction, and its number within the transaction. A statement
/// doesn't see its own writes, only those of earlier statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) xid: Xid,
    pub(super) command: u32,
}

/// Through whose eyes the store is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The reading statement; its xid is `None` as long as its transaction has neither written nor locked.
    pub(super) xid: Option<Xid>,
    pub(super) command: u32,
}

impl View<'_> {
    /// Whether this reader sees what `stamp` wrote.
    pub(super) fn sees(&self, stamp: Stamp) -> bool {
        if self.xid == Some(stamp.xid) {
            stamp.command < self.command
        } else {
            self.snapshot.had_committed(stamp.xid)
        }
    }
}
