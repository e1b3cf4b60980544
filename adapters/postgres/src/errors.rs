//! Errors of the driver and the server, classed by what they mean for the caller.

use steadfast_core::storage::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity};

use crate::functions::{CHANGED_BETWEEN, OTHER_STORE, WRONG_ISOLATION};

/// What the error of a statement that was sent says about the connection that it came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It can go on.
    Good,
    /// It is to be replaced by a new one.
    Spent,
}

/// Classes the error of a statement that may have reached the server. For a statement that only reads, nothing can be
/// [`ErrorKind::Unknown`].
pub(crate) fn classify(error: tokio_postgres::Error, reads: bool) -> (Error, Connection) {
    let (kind, connection) = match error.as_db_error() {
        Some(answer) => classify_answer(answer),
        None if error.is_closed() => (ErrorKind::Unknown, Connection::Spent),
        None if is_encoding(&error) => (ErrorKind::Rejected, Connection::Good),
        // An answer that makes no sense: what was committed can't be told.
        None => (ErrorKind::Unknown, Connection::Spent),
    };
    let kind = if reads && kind == ErrorKind::Unknown { ErrorKind::Unavailable } else { kind };
    (describe(kind).with_source(error), connection)
}

/// The error of a statement that the server gave up within somebody's transaction, which goes on.
pub(crate) fn given_up(code: &str) -> Error {
    if code == WRONG_ISOLATION {
        return Error::new(
            ErrorKind::Broken,
            "replacing the task that holds the slot needs a transaction at READ COMMITTED",
        );
    }
    let kind = classify_code(code).0;
    Error::new(kind, format!("{}; nothing was stored, and the transaction can go on", words(kind)))
}

/// The error of a statement that the server refused within somebody's transaction, which is over with it. No kind that is
/// promised to leave it usable.
pub(crate) fn over(error: tokio_postgres::Error) -> Error {
    use ErrorKind::{Conflict, Contended, Rejected};
    let is_answer = error.as_db_error().is_some();
    let (error, _) = classify(error, false);
    match error.kind() {
        Conflict | Contended | Rejected if is_answer => Error::new(
            Conflict,
            "PostgreSQL has ended the transaction: roll it back, and try the whole of it again",
        )
        .with_source(error),
        _ => error,
    }
}

/// The error of a connection that could not be made: nothing was sent. The store may come back, or be put right.
pub(crate) fn unreachable(source: tokio_postgres::Error) -> Error {
    let what = if wants_encryption(&source) {
        "PostgreSQL wants an encrypted connection, and Steadfast makes only unencrypted ones yet: let it in by a `host` line \
         of pg_hba.conf and without sslmode=require, or through an encrypting proxy or tunnel on this machine"
    } else {
        "PostgreSQL can't be reached"
    };
    Error::new(ErrorKind::Unavailable, what).with_source(source)
}

/// Whether a connection was refused for not being encrypted, by the server or by the URL.
fn wants_encryption(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(answer) => is_refusal_of_plain(answer.code().code(), answer.message()),
        // The driver has no other way to ask.
        None => error.to_string().starts_with("error performing TLS handshake"),
    }
}

/// pg_hba.conf has no line for this connection as it is, and the server adds what could be different about it.
fn is_refusal_of_plain(code: &str, message: &str) -> bool {
    code == "28000" && ["no encryption", "SSL off"].iter().any(|words| message.contains(words))
}

/// Whether the driver could not write the parameters down; it has no other way to ask.
fn is_encoding(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error serializing parameter") || text.starts_with("error encoding message")
}

fn classify_answer(answer: &DbError) -> (ErrorKind, Connection) {
    // The session is over. The transaction most likely was rolled back, but only most likely.
    if matches!(answer.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
        return (ErrorKind::Unknown, Connection::Spent);
    }
    classify_code(answer.code().code())
}

/// Classes the error of a statement whose transaction was rolled back, by its SQLSTATE.
fn classify_code(code: &str) -> (ErrorKind, Connection) {
    use Connection::{Good, Spent};
    use ErrorKind::{Broken, Conflict, Contended, Rejected, Unavailable, Unknown};
    match code {
        CHANGED_BETWEEN => (Conflict, Good),
        WRONG_ISOLATION | OTHER_STORE => (Broken, Spent),
        // The server, or somebody between, can't tell either.
        "40003" => (Unknown, Spent),
        "55P03" => (Contended, Good),
        // Cancelled, by the statement's time limit or by hand: fewer steps may get through.
        "57014" => (Contended, Good),
        // A plan made before the schema changed, or a statement that this session doesn't have: prepare anew.
        "0A000" | "26000" => (Conflict, Spent),
        // Read-only: perhaps a standby that was the primary a moment ago.
        "25006" => (Unavailable, Spent),
        "57P04" | "57P05" => (Unknown, Spent),
        _ => match code.get(..2).unwrap_or_default() {
            "40" => (Conflict, Good),
            "08" | "57" => (Unknown, Spent),
            "22" | "23" | "54" => (Rejected, Good),
            // Out of disk, memory or connections; trouble below the server.
            "53" | "58" => (Unavailable, Good),
            _ => (Broken, Spent),
        },
    }
}

fn describe(kind: ErrorKind) -> Error {
    Error::new(kind, words(kind))
}

fn words(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Conflict => "PostgreSQL rolled the call back because of another; send it again",
        ErrorKind::Contended => "the call waited too long for somebody else's lock; send fewer steps at once",
        ErrorKind::Rejected => "PostgreSQL can't store something in the call",
        ErrorKind::Unknown => "the connection to PostgreSQL was lost while the call was under way",
        ErrorKind::Unavailable => "PostgreSQL can't be reached or can't write",
        ErrorKind::Broken => {
            "PostgreSQL refused a statement that should work; is the schema ours, and whole?"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_errors_says_what_to_do() {
        use ErrorKind::{Broken, Conflict, Contended, Rejected, Unavailable, Unknown};
        for (code, kind) in [
            ("40001", Conflict),
            ("40P01", Conflict),
            ("SF001", Conflict),
            ("0A000", Conflict),
            ("55P03", Contended),
            ("57014", Contended),
            ("22021", Rejected),
            ("22003", Rejected),
            ("23514", Rejected),
            ("54000", Rejected),
            ("53100", Unavailable),
            ("53200", Unavailable),
            ("58030", Unavailable),
            ("25006", Unavailable),
            ("57P01", Unknown),
            ("57P05", Unknown),
            ("08006", Unknown),
            ("40003", Unknown),
            ("42883", Broken),
            ("42501", Broken),
            ("SF002", Broken),
            ("SF003", Broken),
            ("XX001", Broken),
            ("", Broken),
        ] {
            assert_eq!(classify_code(code).0, kind, "{code}");
        }
    }
}
