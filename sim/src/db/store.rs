//! The versions of all rows, the locks on them and the unique indexes: what a statement finds and leaves behind.
//!
//! Each row has one chain of versions, oldest first. Only its last version can have been written or ended by an
//! active transaction, since a second writer waits; so taking back means popping, and a chain needs no links.
//! Nothing here decides whether to wait: the answers say who stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use super::row::{Row, Table};
use super::snapshot::{Snapshot, Stamp, View, Xid};
use super::statement::{LockMode, Rows};

/// Names one version of a row for as long as the store lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VersionId(u64);

#[derive(Debug)]
pub(super) struct Version<R> {
    pub(super) id: VersionId,
    pub(super) row: R,
    made: Stamp,
    ended: Option<EndOfVersion>,
}

#[derive(Clone, Copy, Debug)]
struct EndOfVersion {
    by: Stamp,
    /// The lock that the update or delete amounts to.
    mode: LockMode,
    deleted: bool,
}

#[derive(Debug)]
struct Chain<R> {
    versions: Vec<Version<R>>,
    /// A transaction has one entry, its strongest lock. All locks hang on the newest version.
    locks: Vec<(Xid, LockMode)>,
}

/// Which transaction asks for a row lock, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockClaim {
    pub(super) xid: Xid,
    /// At REPEATABLE READ a row that was changed after the snapshot is an error, not followed.
    pub(super) repeatable: bool,
}

/// The answer to a claim for a row lock.
#[derive(Debug)]
pub(super) enum Locked {
    /// This version may be locked or changed; `moved` if it isn't the one that the snapshot showed.
    Free { version: VersionId, moved: bool },
    /// The row is deleted, or was already changed by this very statement.
    Gone,
    /// It changed after the snapshot of a REPEATABLE READ transaction.
    Stale,
    /// These transactions stand in the way. Whoever has no lock on the row yet also queues, for this lock on this
    /// version; whoever has one already waits outside the queue, as in PostgreSQL.
    /// What stands in the way on versions after the one that is to be locked is waited for even under SKIP LOCKED.
    Wait { xids: Vec<Xid>, queue: Option<(VersionId, LockMode)>, skippable: bool },
}

/// What a transaction has of a table, or waits to have.
#[derive(Clone, Copy, Debug)]
struct TableLock {
    xid: Xid,
    table: Table,
    /// All of it, and not only to write or lock rows: nobody else may do that meanwhile.
    whole: bool,
    held: bool,
}

/// The answer to the question whether a unique key is taken.
#[derive(Debug)]
pub(super) enum Probe {
    Free,
    /// By a row that this statement wrote: `made` says when.
    Taken {
        made: Stamp,
    },
    /// It depends on how this transaction ends.
    InFlight(Xid),
}

/// One change that a transaction has to take back if it aborts.
#[derive(Debug)]
pub(super) enum Undo<R: Row> {
    Made(Table, R::Key),
    Ended(Table, R::Key),
}

#[derive(Debug)]
pub(super) struct Store<R: Row> {
    tables: Vec<BTreeMap<R::Key, Chain<R>>>,
    uniques: BTreeMap<R::Unique, Vec<(Table, R::Key)>>,
    active: Vec<Xid>,
    /// Those who wait in the order in which they are served.
    table_locks: Vec<TableLock>,
    next_xid: Xid,
    next_version: u64,
    /// Rows with versions that nobody will see any more once the oldest snapshots are gone.
    garbage: BTreeSet<(Table, R::Key)>,
    swept_to: Xid,
}

impl<R: Row> Store<R> {
    pub(super) fn new() -> Self {
        Self {
            tables: Vec::new(),
            uniques: BTreeMap::new(),
            active: Vec::new(),
            table_locks: Vec::new(),
            next_xid: Xid(1),
            next_version: 0,
            garbage: BTreeSet::new(),
            swept_to: Xid(0),
        }
    }

    pub(super) fn begin(&mut self) -> Xid {
        let xid = self.next_xid;
        self.next_xid = Xid(xid.0 + 1);
        self.active.push(xid);
        xid
    }

    pub(super) fn is_active(&self, xid: Xid) -> bool {
        self.active.binary_search(&xid).is_ok()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot { next: self.next_xid, in_progress: self.active.clone() }
    }

    /// Ends a transaction that has taken back whatever it doesn't commit, and frees its locks.
    pub(super) fn end(&mut self, xid: Xid, locked: Vec<(Table, R::Key)>) {
        let index = self.active.binary_search(&xid).expect("only an active transaction ends");
        self.active.remove(index);
        self.table_locks.retain(|lock| lock.xid != xid);
        for (table, key) in locked {
            if let Some(chain) = self.chain_mut(table, &key) {
                chain.locks.retain(|(holder, _)| *holder != xid);
            }
        }
    }

    /// Takes a table, whole or to write and lock rows of it, or waits and tells who stands in the way. First come first
    /// served; but who has some of the table overtakes those who wait for that.
    pub(super) fn lock_table(&mut self, table: Table, xid: Xid, whole: bool) -> Result<(), Vec<Xid>> {
        let is_own = |lock: &TableLock| lock.xid == xid && lock.table == table;
        let mut own = self.table_locks.iter().filter(|lock| is_own(lock) && lock.held);
        let has_some = own.clone().next().is_some();
        if own.any(|lock| lock.whole || !whole) {
            return Ok(());
        }
        let place =
            self.table_locks.iter().position(|lock| is_own(lock) && !lock.held).unwrap_or_else(|| {
                let overtaken =
                    |lock: &TableLock| has_some && lock.table == table && !lock.held && lock.whole;
                let locks = &mut self.table_locks;
                let place = locks.iter().position(overtaken).unwrap_or(locks.len());
                locks.insert(place, TableLock { xid, table, whole, held: false });
                place
            });
        let others =
            self.table_locks.iter().enumerate().filter(|(_, lock)| lock.table == table && lock.xid != xid);
        let in_the_way =
            others.filter(|(other, lock)| (whole || lock.whole) && (lock.held || *other < place));
        let in_the_way: Vec<Xid> = in_the_way.map(|(_, lock)| lock.xid).collect();
        self.table_locks[place].held = in_the_way.is_empty();
        if in_the_way.is_empty() { Ok(()) } else { Err(in_the_way) }
    }

    /// What a reader sees of these rows, in the order of their keys.
    pub(super) fn visible<'a>(&'a self, rows: &'a Rows<R>, view: View<'_>) -> Vec<&'a Version<R>> {
        let mut found = Vec::new();
        let Some(table) = self.tables.get(usize::from(rows.table.0)) else { return found };
        let mut look = |chain: &'a Chain<R>| {
            found.extend(chain.seen_by(view).into_iter().flatten().filter(|seen| rows.matches(&seen.row)));
        };
        match &rows.keys {
            None => table.values().for_each(look),
            Some(keys) => keys.iter().filter_map(|key| table.get(key)).for_each(&mut look),
        }
        found
    }

    /// The newest committed rows of a table, in the order of their keys.
    pub(super) fn committed(&self, table: Table) -> impl Iterator<Item = &R> {
        let snapshot = self.snapshot();
        self.tables.get(usize::from(table.0)).into_iter().flat_map(BTreeMap::values).filter_map(
            move |chain| {
                let view = View { snapshot: &snapshot, xid: None, command: 0 };
                chain
                    .versions
                    .iter()
                    .rev()
                    .find(|version| version.is_seen_by(view))
                    .map(|version| &version.row)
            },
        )
    }

    /// The newest version of a row, whoever made it, unless it is ended.
    pub(super) fn newest(&self, table: Table, key: &R::Key) -> Option<&R> {
        let newest = self.chain(table, key)?.versions.last()?;
        newest.ended.is_none().then_some(&newest.row)
    }

    /// Asks for a lock on the row of which the claimant's snapshot shows `version`. `mode` may depend on the
    /// version that is met.
    pub(super) fn lock(
        &self,
        (table, key): (Table, &R::Key),
        version: VersionId,
        mode: impl Fn(&R) -> LockMode,
        claim: LockClaim,
    ) -> Locked {
        let chain = self.chain(table, key).expect("a version that a snapshot shows is kept");
        let queues = !chain.locks.iter().any(|(holder, _)| *holder == claim.xid);
        let mut index = chain.position(version);
        let seen_at = index;
        if chain.locks.is_empty() && chain.versions[index].ended.is_none() {
            return Locked::Free { version, moved: false };
        }
        loop {
            let met = &chain.versions[index];
            let moved = index != seen_at;
            let wanted = mode(&met.row);
            let wait = |xids, queues: bool, skippable| {
                let queue = queues.then_some((met.id, wanted));
                Locked::Wait { xids, queue, skippable }
            };
            if let Some(end) = met.ended {
                if end.by.xid == claim.xid {
                    return Locked::Gone;
                }
                // Who has moved on looks for the version that lives, and waits for any change that is under way.
                if moved || end.mode.conflicts_with(wanted) {
                    if self.is_active(end.by.xid) {
                        return wait(vec![end.by.xid], queues && !moved, true);
                    }
                    match (claim.repeatable, end.deleted) {
                        (true, _) => return Locked::Stale,
                        (false, true) => return Locked::Gone,
                        (false, false) => {}
                    }
                    index += 1;
                    continue;
                }
                // A key-share lock is taken on an old version although there are newer ones, and so on these as
                // well: one of them may have ended in a way that forbids it.
                let further_on = chain.conflict_from(index + 1, wanted, claim.xid);
                match further_on.map(|end| (self.is_active(end.by.xid), claim.repeatable, end)) {
                    None => {}
                    Some((true, _, end)) => return wait(vec![end.by.xid], false, false),
                    Some((false, true, _)) => return Locked::Stale,
                    Some((false, false, _)) => {
                        index += 1;
                        continue;
                    }
                }
            }
            let holders = chain.holders_against(wanted, claim.xid, |xid| self.is_active(xid));
            if holders.is_empty() {
                return Locked::Free { version: met.id, moved };
            }
            return wait(holders, queues, met.ended.is_none());
        }
    }

    /// Whether a committed change has ended this version. Its queue is then dissolved: all who waited go for the
    /// next version.
    pub(super) fn is_superseded(&self, table: Table, key: &R::Key, version: VersionId) -> bool {
        self.chain(table, key).is_none_or(|chain| {
            let found = chain.versions.iter().find(|v| v.id == version);
            found.is_none_or(|v| v.ended.is_some_and(|end| !self.is_active(end.by.xid)))
        })
    }

    /// Records a row lock. Returns whether the transaction had none on this row.
    pub(super) fn add_lock(&mut self, table: Table, key: &R::Key, xid: Xid, mode: LockMode) -> bool {
        let chain = self.chain_mut(table, key).expect("only a row that is there is locked");
        if let Some((_, held)) = chain.locks.iter_mut().find(|(holder, _)| *holder == xid) {
            *held = mode.max(*held);
            return false;
        }
        chain.locks.push((xid, mode));
        true
    }

    pub(super) fn row(&self, table: Table, key: &R::Key, version: VersionId) -> &R {
        let chain = self.chain(table, key).expect("a version that was named is kept");
        &chain.versions[chain.position(version)].row
    }

    /// Ends the newest version of a row that [`Store::lock`] found free. If its transaction had locked it more
    /// strongly than `mode`, the end counts as that strong; the next version starts without such a lock.
    pub(super) fn end_version(
        &mut self,
        table: Table,
        key: &R::Key,
        by: Stamp,
        mode: LockMode,
        deleted: bool,
    ) -> Undo<R> {
        let chain = self.chain_mut(table, key).expect("only a row that is there is changed");
        let own = chain.locks.iter_mut().find(|(holder, _)| *holder == by.xid);
        let held = own.map(|(_, held)| std::mem::replace(held, LockMode::KeyShare));
        let mode = held.map_or(mode, |held| held.max(mode));
        let newest = chain.versions.last_mut().expect("a chain isn't empty");
        assert!(newest.ended.is_none(), "a version ends once: {key:?}");
        newest.ended = Some(EndOfVersion { by, mode, deleted });
        Undo::Ended(table, key.clone())
    }

    /// Adds the newest version of a row. Its unique keys are entered one by one with [`Store::enter`].
    pub(super) fn add_version(&mut self, row: R, made: Stamp) -> (VersionId, Undo<R>) {
        let (table, key) = (row.table(), row.key());
        let number = usize::from(table.0);
        if self.tables.len() <= number {
            self.tables.resize_with(number + 1, BTreeMap::new);
        }
        let id = VersionId(self.next_version);
        self.next_version += 1;
        let chain = self.tables[number].entry(key.clone()).or_insert_with(Chain::empty);
        assert!(chain.versions.last().is_none_or(|last| last.ended.is_some()), "one live version: {key:?}");
        chain.versions.push(Version { id, row, made, ended: None });
        (id, Undo::Made(table, key))
    }

    /// Whether a primary key is taken.
    pub(super) fn probe_key(&self, table: Table, key: &R::Key, xid: Xid) -> Probe {
        let versions = self.chain(table, key).map_or(&[][..], |chain| &chain.versions);
        self.probe(versions.iter(), xid)
    }

    /// Whether a key of another unique index is taken by any version but `except`.
    pub(super) fn probe_unique(&self, unique: &R::Unique, except: Option<VersionId>, xid: Xid) -> Probe {
        let Some(holders) = self.uniques.get(unique) else { return Probe::Free };
        let versions = holders
            .iter()
            .filter_map(|(table, key)| self.chain(*table, key))
            .flat_map(|chain| &chain.versions)
            .filter(|version| {
                Some(version.id) != except && version.row.uniques().any(|held| held == *unique)
            });
        self.probe(versions, xid)
    }

    fn probe<'a>(&'a self, versions: impl Iterator<Item = &'a Version<R>>, xid: Xid) -> Probe {
        let mut probe = Probe::Free;
        for version in versions {
            let made_by_another = version.made.xid != xid && self.is_active(version.made.xid);
            match version.ended {
                Some(end) if end.by.xid == xid => {}
                Some(end) if self.is_active(end.by.xid) => probe = Probe::InFlight(end.by.xid),
                Some(_) => {}
                None if made_by_another => probe = Probe::InFlight(version.made.xid),
                None => return Probe::Taken { made: version.made },
            }
        }
        probe
    }

    /// Enters a unique key of a row into its index.
    pub(super) fn enter(&mut self, unique: R::Unique, table: Table, key: &R::Key) {
        let holders = self.uniques.entry(unique).or_default();
        if !holders.iter().any(|(t, k)| *t == table && k == key) {
            holders.push((table, key.clone()));
        }
    }

    /// Takes back the latest change of an active transaction.
    pub(super) fn undo(&mut self, undo: Undo<R>) {
        match undo {
            Undo::Ended(table, key) => {
                let chain = self.chain_mut(table, &key).expect("a changed row is kept until its writer ends");
                chain.versions.last_mut().expect("a chain isn't empty").ended = None;
            }
            Undo::Made(table, key) => {
                let chain = self.chain_mut(table, &key).expect("a made row is kept until its writer ends");
                let version = chain.versions.pop().expect("what was made is there");
                self.forget(table, &key, version);
            }
        }
    }

    /// Remembers rows that a commit has left with ended versions.
    pub(super) fn add_garbage(&mut self, undo: Vec<Undo<R>>) {
        for undo in undo {
            if let Undo::Ended(table, key) = undo {
                self.garbage.insert((table, key));
            }
        }
    }

    /// Drops the versions that no snapshot can see; `oldest` is the lowest horizon of the snapshots in use.
    pub(super) fn sweep(&mut self, oldest: Option<Xid>) {
        let first_active = self.active.first().copied().unwrap_or(self.next_xid);
        let horizon = oldest.map_or(first_active, |oldest| oldest.min(first_active));
        if self.garbage.is_empty() || horizon <= self.swept_to {
            return;
        }
        self.swept_to = horizon;
        for (table, key) in std::mem::take(&mut self.garbage) {
            if self.prune(table, &key, horizon) {
                self.garbage.insert((table, key));
            }
        }
    }

    /// Returns whether the row still has ended versions.
    fn prune(&mut self, table: Table, key: &R::Key, horizon: Xid) -> bool {
        loop {
            let Some(chain) = self.chain_mut(table, key) else { return false };
            match chain.versions.first().and_then(|oldest| oldest.ended) {
                None => return false,
                Some(end) if end.by.xid >= horizon => return true,
                Some(_) => {}
            }
            let version = chain.versions.remove(0);
            self.forget(table, key, version);
        }
    }

    /// Clears up after a version has left its chain: its index entries, and the chain if it was the last.
    fn forget(&mut self, table: Table, key: &R::Key, version: Version<R>) {
        for unique in version.row.uniques() {
            let chain = self.chain(table, key);
            let kept =
                chain.is_some_and(|c| c.versions.iter().any(|v| v.row.uniques().any(|held| held == unique)));
            if kept {
                continue;
            }
            if let Some(holders) = self.uniques.get_mut(&unique) {
                holders.retain(|(t, k)| !(*t == table && k == key));
                if holders.is_empty() {
                    self.uniques.remove(&unique);
                }
            }
        }
        if self.chain(table, key).is_some_and(|chain| chain.versions.is_empty()) {
            self.tables[usize::from(table.0)].remove(key);
        }
    }

    fn chain(&self, table: Table, key: &R::Key) -> Option<&Chain<R>> {
        self.tables.get(usize::from(table.0))?.get(key)
    }

    fn chain_mut(&mut self, table: Table, key: &R::Key) -> Option<&mut Chain<R>> {
        self.tables.get_mut(usize::from(table.0))?.get_mut(key)
    }

    /// How many versions are kept, dead ones included.
    pub(super) fn version_count(&self) -> usize {
        self.tables.iter().flat_map(BTreeMap::values).map(|chain| chain.versions.len()).sum()
    }
}

impl<R> Version<R> {
    fn is_seen_by(&self, view: View<'_>) -> bool {
        view.sees(self.made) && !self.ended.is_some_and(|end| view.sees(end.by))
    }
}

impl<R> Chain<R> {
    fn empty() -> Self {
        Self { versions: Vec::new(), locks: Vec::new() }
    }

    /// What a reader sees: one version, or none. Or two: its snapshot still shows a row that another transaction
    /// has deleted since, and its own transaction has inserted the key anew.
    fn seen_by(&self, view: View<'_>) -> [Option<&Version<R>>; 2] {
        // Most rows have one version.
        if let [only] = self.versions.as_slice() {
            return [None, only.is_seen_by(view).then_some(only)];
        }
        let newest = self.versions.iter().rev().find(|version| version.is_seen_by(view));
        let own = newest.filter(|version| Some(version.made.xid) == view.xid);
        let older = own.and_then(|own| {
            let before = self.versions.iter().take_while(|version| version.id != own.id);
            before.into_iter().find(|version| version.is_seen_by(view))
        });
        [older, newest]
    }

    fn position(&self, version: VersionId) -> usize {
        self.versions.iter().position(|v| v.id == version).expect("a version that a snapshot shows is kept")
    }

    /// The first end of these versions, by another transaction, that conflicts with a lock.
    fn conflict_from(&self, from: usize, wanted: LockMode, xid: Xid) -> Option<EndOfVersion> {
        let ends = self.versions[from..].iter().filter_map(|version| version.ended);
        ends.into_iter().find(|end| end.by.xid != xid && end.mode.conflicts_with(wanted))
    }

    fn holders_against(&self, wanted: LockMode, xid: Xid, is_active: impl Fn(Xid) -> bool) -> Vec<Xid> {
        let in_the_way = |(holder, held): &&(Xid, LockMode)| {
            *holder != xid && held.conflicts_with(wanted) && is_active(*holder)
        };
        self.locks.iter().filter(in_the_way).map(|(holder, _)| *holder).collect()
    }
}
