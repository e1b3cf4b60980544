//! A statement in execution: it runs until it is finished, fails, or has to wait, and can then be run again.
//!
//! All its parts read the snapshot that it was started with. It remembers how far it came, and takes up the row
//! or key for which it waited from scratch. Who is woken when, and what a failure does to the transaction, is
//! decided by the sessions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

use super::error::ErrorClass;
use super::row::{Row, Table};
use super::snapshot::{Snapshot, Stamp, View, Xid};
use super::statement::{Body, Change, Continue, LockMode, Next, OnConflict, Rows, Select, Statement};
use super::store::{LockClaim, Locked, Probe, Store, Undo, VersionId};

/// What a transaction has done so far.
#[derive(Debug)]
pub(super) struct Journal<R: Row> {
    /// Given with the first statement that writes or locks.
    pub(super) xid: Option<Xid>,
    pub(super) undo: Vec<Undo<R>>,
    pub(super) locked: Vec<(Table, R::Key)>,
    /// It has changed a row, even if it took that back: SQLite then writes pages when it commits. A row that was
    /// refused doesn't count.
    pub(super) dirty: bool,
}

impl<R: Row> Journal<R> {
    pub(super) fn new() -> Self {
        Self { xid: None, undo: Vec::new(), locked: Vec::new(), dirty: false }
    }
}

/// What stopped a statement.
#[derive(Debug)]
pub(super) enum Stop<R: Row> {
    Failed(ErrorClass),
    Waits {
        xids: Vec<Xid>,
        /// The row lock for which it queues; none if it waits for a unique key or outside the queue.
        place: Option<Place<R>>,
    },
}

/// The row version for which a statement queues, and the lock that it wants.
#[derive(Debug)]
pub(super) struct Place<R: Row> {
    pub(super) table: Table,
    pub(super) key: R::Key,
    pub(super) version: VersionId,
    pub(super) mode: LockMode,
}

pub(super) struct Running<R: Row> {
    pub(super) snapshot: Arc<Snapshot>,
    /// It couldn't have its table when it was started, and its snapshot is taken once it has.
    late: bool,
    /// Its first part is through.
    begun: bool,
    command: u32,
    repeatable: bool,
    part: Part<R>,
    then: VecDeque<Continue<R>>,
    /// What it has of tables from the start.
    tables: Vec<Table>,
    answer: Vec<R>,
}

enum Part<R: Row> {
    LockTable(Table),
    Select(Select<R>),
    Lock { select: Select<R>, mode: LockMode, targets: Targets<R> },
    Update { rows: Rows<R>, change: Change<R>, targets: Targets<R>, entering: Option<Entering<R>> },
    Delete { rows: Rows<R>, targets: Targets<R> },
    Insert { rows: VecDeque<R>, entering: Option<Entering<R>> },
    InsertOrNothing { rows: VecDeque<R>, probed: usize },
}

/// The rows that a part found in its snapshot; the first is the one it is at. Found when the part first runs.
type Targets<R> = Option<std::iter::Peekable<IntoIter<(<R as Row>::Key, VersionId)>>>;

/// A version that has been written and whose unique keys are being entered, one index after the other.
struct Entering<R: Row> {
    version: VersionId,
    row: R,
    uniques: IntoIter<R::Unique>,
    waits_with: Option<R::Unique>,
}

impl<R: Row> Running<R> {
    pub(super) fn new(
        statement: Statement<R>,
        snapshot: Arc<Snapshot>,
        command: u32,
        repeatable: bool,
    ) -> Self {
        let Statement { body, then, tables } = statement;
        let (part, answer) = (Part::new(body), Vec::new());
        Self { snapshot, late: false, begun: false, command, repeatable, part, then, tables, answer }
    }

    /// Runs on until the statement is finished; the rows are its answer.
    pub(super) fn run(&mut self, store: &mut Store<R>, journal: &mut Journal<R>) -> Result<Vec<R>, Stop<R>> {
        loop {
            self.run_part(store, journal)?;
            self.begun = true;
            let mut answer = std::mem::take(&mut self.answer);
            loop {
                let Some(next) = self.then.pop_front() else { return Ok(answer) };
                match next(answer) {
                    Next::Answer(rows) => answer = rows,
                    Next::Run(Statement { body, mut then, tables: _ }) => {
                        then.append(&mut self.then);
                        self.then = then;
                        self.part = Part::new(body);
                        break;
                    }
                }
            }
        }
    }

    /// Takes the tables whose rows are written or locked, or tells who stands in the way. PostgreSQL has all tables of a
    /// statement before it takes the snapshot.
    pub(super) fn take_tables(
        &mut self,
        store: &mut Store<R>,
        journal: &mut Journal<R>,
    ) -> Result<(), Vec<Xid>> {
        let whole = if let Part::LockTable(table) = &self.part { Some(*table) } else { None };
        let mut shared = self.part.table().into_iter().chain(self.tables.iter().copied()).peekable();
        if whole.is_none() && shared.peek().is_none() {
            return Ok(());
        }
        let xid = *journal.xid.get_or_insert_with(|| store.begin());
        let taken = shared.try_for_each(|table| store.lock_table(table, xid, false));
        let taken = taken.and_then(|()| whole.map_or(Ok(()), |table| store.lock_table(table, xid, true)));
        let was_late = std::mem::replace(&mut self.late, taken.is_err());
        if was_late && !self.late && !self.begun && !self.repeatable {
            self.snapshot = Arc::new(store.snapshot());
        }
        taken
    }

    fn run_part(&mut self, store: &mut Store<R>, journal: &mut Journal<R>) -> Result<(), Stop<R>> {
        self.take_tables(store, journal).map_err(|xids| Stop::Waits { xids, place: None })?;
        if let Part::Select(select) = &self.part {
            let view = View { snapshot: &self.snapshot, xid: journal.xid, command: self.command };
            self.answer = select_rows(store, select, view);
            return Ok(());
        }
        let xid = *journal.xid.get_or_insert_with(|| store.begin());
        let mut writer = Writer {
            store,
            journal,
            snapshot: &self.snapshot,
            stamp: Stamp { xid, command: self.command },
            repeatable: self.repeatable,
            answer: &mut self.answer,
        };
        match &mut self.part {
            Part::Select(_) => unreachable!("a plain select was answered above"),
            Part::LockTable(_) => Ok(()),
            Part::Lock { select, mode, targets } => writer.lock_rows(select, *mode, targets),
            Part::Update { rows, change, targets, entering } => {
                writer.update(rows, change, targets, entering)
            }
            Part::Delete { rows, targets } => writer.delete(rows, targets),
            Part::Insert { rows, entering } => writer.insert(rows, entering),
            Part::InsertOrNothing { rows, probed } => writer.insert_or_nothing(rows, probed),
        }
    }
}

impl<R: Row> Part<R> {
    fn new(body: Body<R>) -> Self {
        match body {
            Body::LockTable(table) => Self::LockTable(table),
            Body::Select(select) => match select.lock {
                None => Self::Select(select),
                Some(mode) => Self::Lock { select, mode, targets: None },
            },
            Body::Update { rows, change } => Self::Update { rows, change, targets: None, entering: None },
            Body::Delete { rows } => Self::Delete { rows, targets: None },
            Body::Insert { rows, on_conflict: OnConflict::Fail } => Self::Insert { rows, entering: None },
            Body::Insert { rows, on_conflict: OnConflict::Nothing } => {
                Self::InsertOrNothing { rows, probed: 0 }
            }
        }
    }

    /// The table of the rows that it writes or locks.
    fn table(&self) -> Option<Table> {
        match self {
            Part::LockTable(_) | Part::Select(_) => None,
            Part::Lock { select, .. } => Some(select.rows.table),
            Part::Update { rows, .. } | Part::Delete { rows, .. } => Some(rows.table),
            Part::Insert { rows, .. } | Part::InsertOrNothing { rows, .. } => rows.front().map(Row::table),
        }
    }
}

fn select_rows<R: Row>(store: &Store<R>, select: &Select<R>, view: View<'_>) -> Vec<R> {
    let mut seen = store.visible(&select.rows, view);
    if let Some(order) = &select.order {
        seen.sort_by(|a, b| order(&a.row, &b.row));
    }
    seen.into_iter().take(select.limit).map(|version| version.row.clone()).collect()
}

/// A part that writes or locks, at work.
struct Writer<'a, R: Row> {
    store: &'a mut Store<R>,
    journal: &'a mut Journal<R>,
    snapshot: &'a Snapshot,
    stamp: Stamp,
    repeatable: bool,
    answer: &'a mut Vec<R>,
}

impl<R: Row> Writer<'_, R> {
    fn lock_rows(
        &mut self,
        select: &Select<R>,
        mode: LockMode,
        targets: &mut Targets<R>,
    ) -> Result<(), Stop<R>> {
        let table = select.rows.table;
        if targets.is_none() {
            let mut seen = self.store.visible(&select.rows, self.view());
            if let Some(order) = &select.order {
                seen.sort_by(|a, b| order(&a.row, &b.row));
            }
            *targets = Some(targets_of(seen));
        }
        let targets = targets.as_mut().expect("filled above");
        while self.answer.len() < select.limit {
            let Some((key, seen)) = targets.peek() else { break };
            let (version, moved) = match self.store.lock((table, key), *seen, |_| mode, self.claim()) {
                Locked::Wait { skippable: true, .. } if select.skip_locked => {
                    targets.next();
                    continue;
                }
                locked => match settle(locked, table, key)? {
                    None => {
                        targets.next();
                        continue;
                    }
                    Some(free) => free,
                },
            };
            self.add_lock(table, key, mode);
            let row = self.store.row(table, key, version);
            if !moved || select.rows.matches(row) {
                self.answer.push(row.clone());
            }
            targets.next();
        }
        Ok(())
    }

    fn update(
        &mut self,
        rows: &Rows<R>,
        change: &Change<R>,
        targets: &mut Targets<R>,
        entering: &mut Option<Entering<R>>,
    ) -> Result<(), Stop<R>> {
        if targets.is_none() {
            *targets = Some(targets_of(self.store.visible(rows, self.view())));
        }
        let targets = targets.as_mut().expect("filled above");
        loop {
            self.enter(entering)?;
            let Some((key, seen)) = targets.peek() else { return Ok(()) };
            let seen_row = self.store.row(rows.table, key, *seen);
            let mut new = change(seen_row);
            check(&new)?;
            let mode = |row: &R| update_mode(row, &change(row));
            let locked = self.store.lock((rows.table, key), *seen, mode, self.claim());
            if let Some((version, moved)) = settle(locked, rows.table, key)? {
                let row = self.store.row(rows.table, key, version);
                if moved {
                    new = change(row);
                }
                let matches = !moved || rows.matches(row);
                let mode = update_mode(row, &new);
                let kept = |unique: &R::Unique| row.uniques().any(|held| held == *unique);
                let uniques: Vec<R::Unique> = new.uniques().filter(|unique| !kept(unique)).collect();
                if moved {
                    self.add_lock(rows.table, key, mode);
                }
                if matches {
                    check(&new)?;
                    assert!(
                        new.table() == rows.table && new.key() == *key,
                        "an update keeps the key: {new:?}"
                    );
                    let undo = self.store.end_version(rows.table, key, self.stamp, mode, false);
                    self.journal.undo.push(undo);
                    *entering = Some(self.write(new, uniques));
                }
            }
            targets.next();
        }
    }

    fn delete(&mut self, rows: &Rows<R>, targets: &mut Targets<R>) -> Result<(), Stop<R>> {
        if targets.is_none() {
            *targets = Some(targets_of(self.store.visible(rows, self.view())));
        }
        let targets = targets.as_mut().expect("filled above");
        while let Some((key, seen)) = targets.peek() {
            let mode = LockMode::Update;
            let locked = self.store.lock((rows.table, key), *seen, |_| mode, self.claim());
            if let Some((version, moved)) = settle(locked, rows.table, key)? {
                let row = self.store.row(rows.table, key, version).clone();
                if moved {
                    self.add_lock(rows.table, key, mode);
                }
                if !moved || rows.matches(&row) {
                    let undo = self.store.end_version(rows.table, key, self.stamp, mode, true);
                    self.journal.undo.push(undo);
                    self.changed(row);
                }
            }
            targets.next();
        }
        Ok(())
    }

    fn insert(&mut self, rows: &mut VecDeque<R>, entering: &mut Option<Entering<R>>) -> Result<(), Stop<R>> {
        loop {
            self.enter(entering)?;
            let Some(row) = rows.front() else { return Ok(()) };
            check(row)?;
            match self.store.probe_key(row.table(), &row.key(), self.stamp.xid) {
                Probe::Free => {}
                Probe::Taken { .. } => return Err(Stop::Failed(ErrorClass::UniqueViolation)),
                Probe::InFlight(xid) => return Err(Stop::Waits { xids: vec![xid], place: None }),
            }
            let row = rows.pop_front().expect("looked at above");
            let uniques = row.uniques().collect();
            *entering = Some(self.write(row, uniques));
        }
    }

    /// `probed` is how many indexes had no conflict when the statement had to wait for the next one. After the
    /// wait it goes on there, and only when it inserts does it look at all of them again.
    fn insert_or_nothing(&mut self, rows: &mut VecDeque<R>, probed: &mut usize) -> Result<(), Stop<R>> {
        while let Some(row) = rows.front() {
            check(row)?;
            let conflict = self.conflict(row, *probed).or_else(|| self.conflict(row, 0));
            match conflict {
                Some((index, Probe::InFlight(xid))) => {
                    *probed = index;
                    return Err(Stop::Waits { xids: vec![xid], place: None });
                }
                Some((_, Probe::Taken { made })) => {
                    let hidden = made.xid != self.stamp.xid && !self.snapshot.had_committed(made.xid);
                    if self.repeatable && hidden {
                        return Err(Stop::Failed(ErrorClass::SerializationFailure));
                    }
                    rows.pop_front();
                }
                Some((_, Probe::Free)) | None => {
                    let row = rows.pop_front().expect("looked at above");
                    for unique in row.uniques() {
                        self.store.enter(unique, row.table(), &row.key());
                    }
                    self.write(row.clone(), Vec::new());
                    self.changed(row);
                }
            }
            *probed = 0;
        }
        Ok(())
    }

    /// The first index from `first` on in which a key of the row isn't free. Index 0 is the primary key's.
    fn conflict(&self, row: &R, first: usize) -> Option<(usize, Probe)> {
        let by_key = std::iter::once_with(|| self.store.probe_key(row.table(), &row.key(), self.stamp.xid));
        let by_unique = row.uniques().map(|u| self.store.probe_unique(&u, None, self.stamp.xid));
        let mut probes = by_key.chain(by_unique).enumerate().skip(first);
        probes.find(|(_, probe)| !matches!(probe, Probe::Free))
    }

    /// Enters the unique keys of a version that has been written, as far as nobody else may have them.
    fn enter(&mut self, entering: &mut Option<Entering<R>>) -> Result<(), Stop<R>> {
        let Some(entry) = entering else { return Ok(()) };
        while let Some(unique) = entry.waits_with.take().or_else(|| entry.uniques.next()) {
            match self.store.probe_unique(&unique, Some(entry.version), self.stamp.xid) {
                Probe::Free => self.store.enter(unique, entry.row.table(), &entry.row.key()),
                Probe::Taken { .. } => return Err(Stop::Failed(ErrorClass::UniqueViolation)),
                Probe::InFlight(xid) => {
                    entry.waits_with = Some(unique);
                    return Err(Stop::Waits { xids: vec![xid], place: None });
                }
            }
        }
        let entry = entering.take().expect("looked at above");
        self.changed(entry.row);
        Ok(())
    }

    fn changed(&mut self, row: R) {
        self.journal.dirty = true;
        self.answer.push(row);
    }

    fn write(&mut self, row: R, uniques: Vec<R::Unique>) -> Entering<R> {
        let (version, undo) = self.store.add_version(row.clone(), self.stamp);
        self.journal.undo.push(undo);
        Entering { version, row, uniques: uniques.into_iter(), waits_with: None }
    }

    fn add_lock(&mut self, table: Table, key: &R::Key, mode: LockMode) {
        if self.store.add_lock(table, key, self.stamp.xid, mode) {
            self.journal.locked.push((table, key.clone()));
        }
    }

    fn claim(&self) -> LockClaim {
        LockClaim { xid: self.stamp.xid, repeatable: self.repeatable }
    }

    fn view(&self) -> View<'_> {
        View { snapshot: self.snapshot, xid: Some(self.stamp.xid), command: self.stamp.command }
    }
}

fn targets_of<R: Row>(
    seen: Vec<&super::store::Version<R>>,
) -> std::iter::Peekable<IntoIter<(R::Key, VersionId)>> {
    let targets: Vec<_> = seen.into_iter().map(|version| (version.row.key(), version.id)).collect();
    targets.into_iter().peekable()
}

/// `None`: there is nothing to lock any more.
fn settle<R: Row>(locked: Locked, table: Table, key: &R::Key) -> Result<Option<(VersionId, bool)>, Stop<R>> {
    match locked {
        Locked::Free { version, moved } => Ok(Some((version, moved))),
        Locked::Gone => Ok(None),
        Locked::Stale => Err(Stop::Failed(ErrorClass::SerializationFailure)),
        Locked::Wait { xids, queue, skippable: _ } => {
            let place = queue.map(|(version, mode)| Place { table, key: key.clone(), version, mode });
            Err(Stop::Waits { xids, place })
        }
    }
}

/// An update that leaves the keys of all whole unique indexes alone lets key-share locks be.
fn update_mode<R: Row>(old: &R, new: &R) -> LockMode {
    fn whole<R: Row>(row: &R) -> impl Iterator<Item = R::Unique> {
        row.uniques().filter(|unique| !R::is_partial(unique))
    }
    if whole(old).eq(whole(new)) { LockMode::NoKeyUpdate } else { LockMode::Update }
}

fn check<R: Row>(row: &R) -> Result<(), Stop<R>> {
    row.check().map_err(|constraint| Stop::Failed(ErrorClass::CheckViolation(constraint)))
}

impl<R: Row> std::fmt::Debug for Running<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match &self.part {
            Part::LockTable(_) => "lock table",
            Part::Select(_) => "select",
            Part::Lock { .. } => "select for",
            Part::Update { .. } => "update",
            Part::Delete { .. } => "delete",
            Part::Insert { .. } | Part::InsertOrNothing { .. } => "insert",
        };
        f.debug_struct("Running").field("part", &part).finish_non_exhaustive()
    }
}
