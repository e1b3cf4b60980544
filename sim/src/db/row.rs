//! What the kernel has to know about a row: where it lives, its keys, and whether the database would refuse it.
//!
//! The kernel is generic over the row, so that simulated storage works on typed rows and not on columns.

use std::fmt::Debug;

/// The number of a table. Tables need no declaration: one exists as soon as a row lives in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// A row of the simulated database; usually an enum with a variant per table.
pub trait Row: Clone + Debug + Send + 'static {
    /// The primary key. Its order is the order in which a statement meets the rows of a table.
    type Key: Ord + Clone + Debug + Send;

    /// A key of some other unique index. The value says which index it belongs to as well (and so which table):
    /// two rows may never hold equal values at the same time.
    type Unique: Ord + Clone + Debug + Send;

    /// The table of this row. An update must not change it.
    fn table(&self) -> Table;

    /// The primary key, unique within the table. An update must not change it.
    fn key(&self) -> Self::Key;

    /// The row's entries in its other unique indexes, always in the same order of indexes. A row that a partial
    /// index doesn't cover, or whose column is null, has no entry there.
    fn uniques(&self) -> impl Iterator<Item = Self::Unique>;

    /// Whether the index of this key is partial (or over an expression). PostgreSQL takes the strongest row lock
    /// for an update that changes a key of a whole unique index, and the weaker one otherwise.
    fn is_partial(_unique: &Self::Unique) -> bool {
        false
    }

    /// The check constraints: the name of the first one that refuses this row.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}
