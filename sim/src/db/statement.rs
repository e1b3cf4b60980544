//! Statements: which rows they take, what they do to them, and which statements follow under the same snapshot.
//!
//! A statement is data plus closures over the row. Nothing is executed here.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;

use super::row::{Row, Table};

/// The four row locks of PostgreSQL, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockMode {
    /// `FOR KEY SHARE`: only the row's key must stay.
    KeyShare,
    /// `FOR SHARE`: the row must stay as it is.
    Share,
    /// `FOR NO KEY UPDATE`, and what an ordinary update takes.
    NoKeyUpdate,
    /// `FOR UPDATE`, and what a delete or an update of a key takes.
    Update,
}

impl LockMode {
    /// Whether two transactions can't hold these locks on one row at the same time.
    #[must_use]
    pub fn conflicts_with(self, other: LockMode) -> bool {
        use LockMode::{KeyShare, NoKeyUpdate, Share, Update};
        match (self.min(other), self.max(other)) {
            (_, Update) | (Share, NoKeyUpdate) | (NoKeyUpdate, NoKeyUpdate) => true,
            (KeyShare | Share, KeyShare | Share) | (KeyShare, NoKeyUpdate) => false,
            (Update, _) | (NoKeyUpdate, KeyShare | Share) => unreachable!("the smaller mode comes first"),
        }
    }
}

type Predicate<R> = Box<dyn Fn(&R) -> bool + Send>;
type Order<R> = Box<dyn Fn(&R, &R) -> Ordering + Send>;
pub(super) type Change<R> = Box<dyn Fn(&R) -> R + Send>;
pub(super) type Continue<R> = Box<dyn FnOnce(Vec<R>) -> Next<R> + Send>;

/// Which rows a statement takes: those of a table, or those with some keys, that satisfy a predicate.
pub struct Rows<R: Row> {
    pub(super) table: Table,
    pub(super) keys: Option<Vec<R::Key>>,
    predicate: Option<Predicate<R>>,
}

impl<R: Row> Rows<R> {
    /// All rows of a table. Costs a look at each of them.
    #[must_use]
    pub fn all(table: Table) -> Self {
        Self { table, keys: None, predicate: None }
    }

    /// The rows with these primary keys, met in the order of their keys.
    #[must_use]
    pub fn by_keys(table: Table, keys: impl IntoIterator<Item = R::Key>) -> Self {
        let mut keys: Vec<R::Key> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self { table, keys: Some(keys), predicate: None }
    }

    /// Only rows for which the predicate holds. It is asked again about the newest version of a row for which
    /// the statement had to wait.
    #[must_use]
    pub fn filter(mut self, predicate: impl Fn(&R) -> bool + Send + 'static) -> Self {
        self.predicate = Some(match self.predicate {
            None => Box::new(predicate),
            Some(earlier) => Box::new(move |row| earlier(row) && predicate(row)),
        });
        self
    }

    pub(super) fn matches(&self, row: &R) -> bool {
        self.predicate.as_ref().is_none_or(|holds| holds(row))
    }
}

/// A `SELECT`, plain or locking.
pub struct Select<R: Row> {
    pub(super) rows: Rows<R>,
    pub(super) order: Option<Order<R>>,
    pub(super) limit: usize,
    pub(super) lock: Option<LockMode>,
    pub(super) skip_locked: bool,
}

impl<R: Row> Select<R> {
    /// Selects these rows, in the order of their keys.
    #[must_use]
    pub fn new(rows: Rows<R>) -> Self {
        Self { rows, order: None, limit: usize::MAX, lock: None, skip_locked: false }
    }

    /// Orders the rows by a key, equal ones by their primary key. A locking select orders them before it locks,
    /// so rows that change while it waits can come out of order, as in PostgreSQL.
    #[must_use]
    pub fn order_by<K: Ord>(mut self, key: impl Fn(&R) -> K + Send + 'static) -> Self {
        self.order = Some(Box::new(move |a, b| key(a).cmp(&key(b))));
        self
    }

    /// At most this many rows. A locking select locks no more than it returns, save rows that failed the re-check.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Locks each row. PostgreSQL mode only.
    #[must_use]
    pub fn lock(mut self, mode: LockMode) -> Self {
        self.lock = Some(mode);
        self
    }

    /// Passes over rows that another transaction has locked, instead of waiting. Only for a locking select.
    #[must_use]
    pub fn skip_locked(mut self) -> Self {
        self.skip_locked = true;
        self
    }
}

/// One statement, or several parts folded into one: all of them read the same snapshot.
pub struct Statement<R: Row> {
    pub(super) body: Body<R>,
    pub(super) then: VecDeque<Continue<R>>,
    /// The tables whose rows parts after the first write or lock, as far as somebody has said so.
    pub(super) tables: Vec<Table>,
}

pub(super) enum Body<R: Row> {
    LockTable(Table),
    Select(Select<R>),
    Update { rows: Rows<R>, change: Change<R> },
    Delete { rows: Rows<R> },
    Insert { rows: VecDeque<R>, on_conflict: OnConflict },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnConflict {
    Fail,
    Nothing,
}

/// What follows a part of a folded statement.
#[derive(Debug)]
pub enum Next<R: Row> {
    /// Another part, under the same snapshot and blind to what the earlier parts wrote.
    Run(Statement<R>),
    /// Nothing: these rows are the answer.
    Answer(Vec<R>),
}

impl<R: Row> Statement<R> {
    /// `SELECT`.
    #[must_use]
    pub fn select(select: Select<R>) -> Self {
        assert!(select.lock.is_some() || !select.skip_locked, "only a locking select can skip locked rows");
        Self::new(Body::Select(select))
    }

    /// `LOCK TABLE … IN EXCLUSIVE MODE`: waits for all who have written or locked rows of the table, or asked to, and
    /// keeps others from that until the transaction ends. Plain selects go on. PostgreSQL mode only.
    #[must_use]
    pub fn lock_table(table: Table) -> Self {
        Self::new(Body::LockTable(table))
    }

    /// `UPDATE … RETURNING`: the new versions. `change` is asked again about the newest version of a row for
    /// which the statement had to wait; it must change neither table nor primary key.
    #[must_use]
    pub fn update(rows: Rows<R>, change: impl Fn(&R) -> R + Send + 'static) -> Self {
        Self::new(Body::Update { rows, change: Box::new(change) })
    }

    /// `DELETE … RETURNING`: the versions that were deleted.
    #[must_use]
    pub fn delete(rows: Rows<R>) -> Self {
        Self::new(Body::Delete { rows })
    }

    /// `INSERT … RETURNING`. Fails if a unique index has one of the keys; waits while that isn't certain.
    #[must_use]
    pub fn insert(rows: impl IntoIterator<Item = R>) -> Self {
        Self::new(Body::Insert { rows: rows.into_iter().collect(), on_conflict: OnConflict::Fail })
    }

    /// `INSERT … ON CONFLICT DO NOTHING RETURNING`: the rows that were inserted, without those that conflict.
    #[must_use]
    pub fn insert_or_nothing(rows: impl IntoIterator<Item = R>) -> Self {
        Self::new(Body::Insert { rows: rows.into_iter().collect(), on_conflict: OnConflict::Nothing })
    }

    /// Folds another part into this statement, made from the rows of this one. Subqueries and data-modifying
    /// CTEs are such parts: whatever they wait for, their snapshot stays the statement's.
    #[must_use]
    pub fn then(mut self, next: impl FnOnce(Vec<R>) -> Next<R> + Send + 'static) -> Self {
        self.then.push_back(Box::new(next));
        self
    }

    /// Says that a part after the first writes or locks rows of this table: PostgreSQL has all tables of a statement
    /// before it takes its snapshot. Matters only for tables that somebody [locks whole](Self::lock_table), and only
    /// certification locks others than the queues'.
    #[must_use]
    pub fn and_writes(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    fn new(body: Body<R>) -> Self {
        Self { body, then: VecDeque::new(), tables: Vec::new() }
    }

    /// Whether it reads nothing: at REPEATABLE READ it takes no snapshot for the transaction.
    pub(super) fn only_locks_table(&self) -> bool {
        matches!(self.body, Body::LockTable(_)) && self.then.is_empty()
    }

    /// Whether the first part is a locking select, or locks a table.
    pub(super) fn starts_with_lock(&self) -> bool {
        match &self.body {
            Body::LockTable(_) => true,
            Body::Select(select) => select.lock.is_some(),
            Body::Update { .. } | Body::Delete { .. } | Body::Insert { .. } => false,
        }
    }

    /// Whether the first part neither writes nor locks; a later part may still.
    pub(super) fn starts_as_read(&self) -> bool {
        matches!(&self.body, Body::Select(select) if select.lock.is_none())
    }
}

impl<R: Row> From<Select<R>> for Statement<R> {
    fn from(select: Select<R>) -> Self {
        Self::select(select)
    }
}

impl<R: Row> fmt::Debug for Rows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("table", &self.table).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl<R: Row> fmt::Debug for Select<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, order: _, limit, lock, skip_locked } = self;
        f.debug_struct("Select")
            .field("rows", rows)
            .field("limit", limit)
            .field("lock", lock)
            .field("skip_locked", skip_locked)
            .finish_non_exhaustive()
    }
}

impl<R: Row> fmt::Debug for Statement<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::LockTable(table) => f.debug_tuple("LockTable").field(table).finish(),
            Body::Select(select) => f.debug_tuple("Select").field(select).finish(),
            Body::Update { rows, .. } => f.debug_tuple("Update").field(rows).finish(),
            Body::Delete { rows } => f.debug_tuple("Delete").field(rows).finish(),
            Body::Insert { rows, on_conflict } => {
                f.debug_tuple("Insert").field(rows).field(on_conflict).finish()
            }
        }
    }
}
