//! The errors with which a statement can end, classed as the real databases class them.
//!
//! They are what a client is told; whether to retry is not decided here.

/// Why a statement failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// PostgreSQL: REPEATABLE READ met a row that was changed after its snapshot.
    SerializationFailure,
    /// PostgreSQL: this statement's wait would have closed a circle.
    Deadlock,
    /// PostgreSQL: the wait for a lock took longer than the session's limit. The caller decides when.
    LockTimeout,
    /// PostgreSQL: cancelled by the client or the operator.
    Cancelled,
    /// PostgreSQL: an earlier statement of this transaction failed; only its end is accepted now.
    InFailedTransaction,
    /// SQLite: another connection is writing.
    Busy,
    /// SQLite: this transaction has read, and another has committed since; it can't become a writer any more.
    BusySnapshot,
    /// Either: a unique index already has this key.
    UniqueViolation,
    /// Either: the named check constraint refused the row.
    CheckViolation(&'static str),
    /// Either: the disk is full. Never met by the kernel itself; the caller injects it.
    DiskFull,
}

impl ErrorClass {
    /// The SQLSTATE, or for errors that only SQLite has its extended result code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::SerializationFailure => "40001",
            Self::Deadlock => "40P01",
            Self::LockTimeout => "55P03",
            Self::Cancelled => "57014",
            Self::InFailedTransaction => "25P02",
            Self::Busy => "5",
            Self::BusySnapshot => "517",
            Self::UniqueViolation => "23505",
            Self::CheckViolation(_) => "23514",
            Self::DiskFull => "53100",
        }
    }
}

impl std::fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::SerializationFailure => "serialization failure",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock timeout",
            Self::Cancelled => "cancelled",
            Self::InFailedTransaction => "transaction already failed",
            Self::Busy => "database is busy",
            Self::BusySnapshot => "snapshot is too old to write",
            Self::UniqueViolation => "unique violation",
            Self::CheckViolation(constraint) => constraint,
            Self::DiskFull => "disk is full",
        };
        write!(f, "{name} ({})", self.code())
    }
}

impl std::error::Error for ErrorClass {}
