//! SQLite's errors, classed by what the caller should do about them.

use std::fmt;

use rusqlite::ErrorCode;
use steadfast_core::{Error, ErrorKind};

/// The error of a call that was rolled back, or that only read: nothing was committed.
pub(crate) fn classed(doing: impl fmt::Display, error: &rusqlite::Error) -> Error {
    let (kind, advice) = class(error);
    Error::new(kind, format!("could not {doing}: {error}{advice}"))
}

/// The error of a failed COMMIT.
///
/// In general its outcome is unknown, even after a ROLLBACK: where the sync failed, the log may hold the transaction
/// whole, and would bring it back if the host died before the next commit overwrote it. Two cases are definite:
/// - BUSY: SQLite leaves the transaction open and has written nothing; it has been rolled back.
/// - FULL: the commit's frame is the last that is written to the log, and only writing reports FULL (a failed sync is
///   an IOERR). So the frame is missing or incomplete, and a log's incomplete frame counts as its end.
pub(crate) fn of_commit(doing: impl fmt::Display, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull) => classed(doing, error),
        _ => Error::new(
            ErrorKind::Unknown,
            format!("could not {doing}: the commit failed and may have been stored all the same: {error}"),
        ),
    }
}

fn class(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    use ErrorCode as C;
    let Some(code) = error.sqlite_error_code() else {
        // Not SQLite's own: a value that doesn't fit its type, so a row that isn't ours or a mistake in a statement.
        return (ErrorKind::Broken, "; the file was changed by something else, or this is a bug");
    };
    match code {
        C::DatabaseBusy | C::DatabaseLocked | C::FileLockingProtocolFailed => {
            (ErrorKind::Conflict, "; another process holds the file's lock: try again")
        }
        C::OperationInterrupted | C::OperationAborted => (ErrorKind::Conflict, "; try again"),
        C::DiskFull => {
            (ErrorKind::Unavailable, "; free some space on the disk, or raise bytes_max if it is set")
        }
        C::ReadOnly | C::PermissionDenied | C::CannotOpen => {
            (ErrorKind::Unavailable, "; the file and its directory must exist and be writable for this user")
        }
        C::SystemIoFailure | C::OutOfMemory | C::NoLargeFileSupport => {
            (ErrorKind::Unavailable, "; look for the host's disk and memory errors")
        }
        C::ConstraintViolation | C::TooBig | C::TypeMismatch => {
            (ErrorKind::Rejected, "; something in the call can't be stored")
        }
        C::NotADatabase => (ErrorKind::Broken, "; choose another path"),
        C::DatabaseCorrupt => (ErrorKind::Broken, "; the file is damaged: restore it from a backup"),
        _ => (ErrorKind::Broken, "; the file was changed by something else, or this is a bug"),
    }
}
