//! The statement language of the programs: data from which SQL text and kernel statements are both derived.
//!
//! There are two tables of the same shape, `t` and `q` (`id`, `s` for a state, `v` for a value that may not be
//! negative, `u` for a unique number or null). In `t` the unique index is partial: rows in state 2 have left it,
//! as ended tasks leave theirs. In `q` it is whole.

use std::fmt::Write as _;

use steadfast_sim::db::{LockMode, Next, Row, Rows, Select, Statement, Table};

/// Which real database a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// PostgreSQL.
    Postgres,
    /// SQLite in WAL mode.
    Sqlite,
}

/// Table `t`: tasks, accounts, children.
pub const T: Table = Table(0);
/// Table `q`: queues, parents, limits.
pub const Q: Table = Table(1);

/// The state in which a row of `t` has left its unique index.
pub const STATE_ENDED: i32 = 2;

/// A row of either table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The table it lives in.
    pub table: Table,
    /// Primary key.
    pub id: i32,
    /// State.
    pub s: i32,
    /// Value, not negative.
    pub v: i32,
    /// Unique number.
    pub u: Option<i32>,
}

impl Row for Record {
    type Key = i32;
    type Unique = (Table, i32);

    fn table(&self) -> Table {
        self.table
    }

    fn key(&self) -> i32 {
        self.id
    }

    fn uniques(&self) -> impl Iterator<Item = (Table, i32)> {
        let covered = self.table != T || self.s != STATE_ENDED;
        self.u.filter(|_| covered).map(|u| (self.table, u)).into_iter()
    }

    fn is_partial(unique: &(Table, i32)) -> bool {
        unique.0 == T
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.v >= 0 { Ok(()) } else { Err("v_not_negative") }
    }
}

/// The statements that create the tables. PostgreSQL doesn't see through the predicate of the partial index, so
/// it never scans that one instead of the primary key, in another order.
#[must_use]
pub fn schema(store: Store) -> String {
    let key = match store {
        Store::Postgres => "int primary key",
        Store::Sqlite => "integer primary key",
    };
    let columns = format!("(id {key}, s int not null, v int not null check (v >= 0), u int)");
    format!(
        "create table t {columns}; create unique index t_u on t(u) where abs(s - {STATE_ENDED}) > 0; \
         create table q {columns}; create unique index q_u on q(u);"
    )
}

/// What a session does in one step.
#[derive(Clone, Debug)]
pub enum Act {
    /// Begins a transaction.
    Begin(steadfast_sim::db::Begin),
    /// Commits.
    Commit,
    /// Rolls back.
    Rollback,
    /// Runs a statement.
    Run(Do),
    /// Runs a statement that stops after its snapshot until [`Act::OpenGate`].
    RunGated(Do),
    /// Lets this session's stopped statement go on.
    OpenGate,
    /// PostgreSQL: from now on a wait of this session fails soon.
    LimitWaits,
    /// PostgreSQL: cancels this session's statement, from outside.
    Cancel,
    /// PostgreSQL: the client vanishes; the session is gone as soon as the server notices.
    HangUp,
    /// PostgreSQL: the client sends COMMIT and vanishes before the answer.
    CommitAndHangUp,
    /// SQLite: sets a savepoint.
    Savepoint,
    /// SQLite: back to the savepoint, which stays.
    RollbackTo,
    /// SQLite: forgets the savepoint.
    Release,
    /// SQLite: starts to read a table and doesn't finish.
    OpenCursor(Table),
    /// SQLite: resets unfinished selects.
    CloseCursors,
}

/// Which rows: those of a table that satisfy every condition that is given.
#[derive(Clone, Debug)]
pub struct Where {
    /// The table.
    pub table: Table,
    /// Only these ids.
    pub ids: Option<Vec<i32>>,
    /// Only this state.
    pub s: Option<i32>,
    /// Only this value.
    pub v: Option<i32>,
}

/// Which rows a select returns, in which order, and which lock it takes.
#[derive(Clone, Debug)]
pub struct Pick {
    /// The rows.
    pub at: Where,
    /// By `v` and then `id`, instead of by `id`.
    pub by_value: bool,
    /// At most this many.
    pub limit: Option<usize>,
    /// The lock, and whether locked rows are skipped.
    pub lock: Option<(LockMode, bool)>,
}

/// What an update does to a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    /// The new state.
    pub s: Option<i32>,
    /// Added to the value.
    pub add: i32,
    /// The new unique number or null.
    pub u: Option<Option<i32>>,
}

/// A statement.
#[derive(Clone, Debug)]
pub enum Do {
    /// PostgreSQL: locks a table in exclusive mode.
    LockTable(Table),
    /// A select.
    Select(Pick),
    /// An update.
    Update(Where, Set),
    /// An update of the rows that an uncorrelated subselect picks: how queues claim.
    UpdatePicked(Pick, Set),
    /// A delete.
    Delete(Where),
    /// An insert; the flag says `ON CONFLICT DO NOTHING`.
    Insert(Record, bool),
    /// A CTE: the second part does its work only if the first returned a number of rows within the bounds.
    Folded {
        /// The first part.
        first: Box<Do>,
        /// At least so many rows.
        at_least: usize,
        /// At most so many rows.
        at_most: usize,
        /// The second part.
        then: Box<Do>,
    },
}

impl Do {
    /// The SQL text; `condition` is added to every `where` of the outermost part.
    #[must_use]
    pub fn sql(&self, store: Store, condition: &str) -> String {
        let (ctes, body) = self.parts(store, condition, 0);
        if ctes.is_empty() { body } else { format!("with {} {body}", ctes.join(", ")) }
    }

    fn parts(&self, store: Store, condition: &str, depth: usize) -> (Vec<String>, String) {
        let body = match self {
            Do::LockTable(table) => format!("lock table {} in exclusive mode", name(*table)),
            Do::Select(pick) => pick.sql("id, s, v, u", condition),
            Do::Update(at, set) => {
                format!(
                    "update {} set {} where {}{condition} returning id, s, v, u",
                    at.name(),
                    set.sql(),
                    at.sql()
                )
            }
            Do::UpdatePicked(pick, set) => {
                let (name, ids) = (pick.at.name(), pick.sql("id", ""));
                let within = match store {
                    Store::Postgres => format!("id = any(array({ids}))"),
                    Store::Sqlite => format!("id in ({ids})"),
                };
                format!("update {name} set {} where {within}{condition} returning id, s, v, u", set.sql())
            }
            Do::Delete(at) => {
                format!("delete from {} where {}{condition} returning id, s, v, u", at.name(), at.sql())
            }
            Do::Insert(record, nothing) => record.insert_sql(*nothing, condition),
            Do::Folded { first, at_least, at_most, then } => {
                let name = format!("part{depth}");
                let (mut ctes, first) = first.parts(store, condition, depth + 1);
                ctes.push(format!("{name} as materialized ({first})"));
                let condition =
                    format!(" and (select count(*) from {name}) between {at_least} and {at_most}");
                // Parts further on get names that no part before them has.
                let (more, body) = then.parts(store, &condition, depth + ctes.len());
                ctes.extend(more);
                return (ctes, body);
            }
        };
        (Vec::new(), body)
    }

    /// The same statement for the kernel.
    #[must_use]
    pub fn statement(&self) -> Statement<Record> {
        match self.clone() {
            Do::LockTable(table) => Statement::lock_table(table),
            Do::Select(pick) => pick.select().into(),
            Do::Update(at, set) => Statement::update(at.rows(), move |row| set.apply(row)),
            Do::UpdatePicked(pick, set) => {
                let table = pick.at.table;
                let update = move |picked: Vec<Record>| {
                    let rows = Rows::by_keys(table, picked.iter().map(|row| row.id));
                    Next::Run(Statement::update(rows, move |row| set.apply(row)))
                };
                Statement::select(pick.select()).then(update).and_writes(table)
            }
            Do::Delete(at) => Statement::delete(at.rows()),
            Do::Insert(record, false) => Statement::insert([record]),
            Do::Insert(record, true) => Statement::insert_or_nothing([record]),
            Do::Folded { first, at_least, at_most, then } => {
                let tables = then.tables();
                let folded = first.statement().then(move |rows| {
                    if (at_least..=at_most).contains(&rows.len()) {
                        Next::Run(then.statement())
                    } else {
                        Next::Answer(Vec::new())
                    }
                });
                tables.into_iter().fold(folded, Statement::and_writes)
            }
        }
    }

    /// The tables whose rows it writes or locks.
    fn tables(&self) -> Vec<Table> {
        match self {
            Do::LockTable(table) => vec![*table],
            Do::Select(pick) => pick.lock.map(|_| pick.at.table).into_iter().collect(),
            Do::Update(at, _) | Do::Delete(at) => vec![at.table],
            Do::UpdatePicked(pick, _) => vec![pick.at.table],
            Do::Insert(record, _) => vec![record.table],
            Do::Folded { first, then, .. } => [first.tables(), then.tables()].concat(),
        }
    }
}

impl Where {
    fn name(&self) -> &'static str {
        name(self.table)
    }

    fn sql(&self) -> String {
        // Always a condition on the id: with sequential scans switched off, PostgreSQL then meets the rows in the
        // order of their ids, as the kernel does.
        let mut sql = match &self.ids {
            None => "id > 0".to_owned(),
            Some(ids) if ids.len() == 1 => format!("id = {}", ids[0]),
            Some(ids) => {
                let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
                format!("id in ({})", ids.join(", "))
            }
        };
        for (column, value) in [("s", self.s), ("v", self.v)] {
            if let Some(value) = value {
                write!(sql, " and {column} = {value}").expect("a string takes all");
            }
        }
        sql
    }

    fn rows(&self) -> Rows<Record> {
        let (s, v) = (self.s, self.v);
        let rows = match &self.ids {
            None => Rows::all(self.table),
            Some(ids) => Rows::by_keys(self.table, ids.iter().copied()),
        };
        rows.filter(move |row: &Record| s.is_none_or(|s| row.s == s) && v.is_none_or(|v| row.v == v))
    }
}

impl Pick {
    fn sql(&self, columns: &str, condition: &str) -> String {
        let order = if self.by_value { "v, id" } else { "id" };
        let mut sql = format!(
            "select {columns} from {} where {}{condition} order by {order}",
            self.at.name(),
            self.at.sql()
        );
        if let Some(limit) = self.limit {
            write!(sql, " limit {limit}").expect("a string takes all");
        }
        if let Some((mode, skip)) = self.lock {
            let mode = match mode {
                LockMode::KeyShare => "key share",
                LockMode::Share => "share",
                LockMode::NoKeyUpdate => "no key update",
                LockMode::Update => "update",
            };
            write!(sql, " for {mode}{}", if skip { " skip locked" } else { "" }).expect("a string takes all");
        }
        sql
    }

    fn select(self) -> Select<Record> {
        let mut select = Select::new(self.at.rows());
        if self.by_value {
            select = select.order_by(|row| row.v);
        }
        if let Some(limit) = self.limit {
            select = select.limit(limit);
        }
        if let Some((mode, skip)) = self.lock {
            select = select.lock(mode);
            if skip {
                select = select.skip_locked();
            }
        }
        select
    }
}

impl Set {
    fn sql(&self) -> String {
        let mut parts = Vec::new();
        if let Some(s) = self.s {
            parts.push(format!("s = {s}"));
        }
        if self.add != 0 {
            parts.push(format!("v = v + ({})", self.add));
        }
        if let Some(u) = self.u {
            parts.push(format!("u = {}", sql_number(u)));
        }
        assert!(!parts.is_empty(), "an update sets something");
        parts.join(", ")
    }

    fn apply(&self, row: &Record) -> Record {
        Record { s: self.s.unwrap_or(row.s), v: row.v + self.add, u: self.u.unwrap_or(row.u), ..row.clone() }
    }
}

impl Record {
    /// An insert of this row; with a condition it becomes an insert from a select.
    #[must_use]
    pub fn insert_sql(&self, nothing: bool, condition: &str) -> String {
        let table = name(self.table);
        let on_conflict = if nothing { " on conflict do nothing" } else { "" };
        let u = sql_number(self.u);
        format!(
            "insert into {table} select {}, {}, {}, {u} where true{condition}{on_conflict} returning id, s, v, u",
            self.id, self.s, self.v
        )
    }

    /// The row as both stages write it.
    #[must_use]
    pub fn text(&self) -> String {
        let u = self.u.map_or("-".to_owned(), |u| u.to_string());
        format!("{}|{}|{}|{u}", self.id, self.s, self.v)
    }
}

fn name(table: Table) -> &'static str {
    if table == T { "t" } else { "q" }
}

fn sql_number(number: Option<i32>) -> String {
    number.map_or("null".to_owned(), |number| number.to_string())
}
