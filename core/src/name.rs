//! Names: of tasks, kinds, queues, slots, keys, workers and stores.
//!
//! Every name is checked where it enters, so that the rest of the system can put it into SQL, file names,
//! environment variables and log lines without a second thought. Cloning a name is cheap, and so is comparing two.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a text can't be a name: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {why}")]
pub struct InvalidName {
    /// What it was meant to be, for example `task id`.
    pub what: &'static str,
    /// The offending text, cut to a readable length.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// Letters, digits, dot, underscore and hyphen; not only dots, because names become file names.
fn check_word(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err("must have 1 to 128 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err("may contain only letters, digits, '.', '_' and '-'");
    }
    if text.bytes().all(|b| b == b'.') {
        return Err("must not consist of dots only");
    }
    Ok(())
}

/// Any printable text: sessions and keys come from other systems, with separators of their own.
fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err("must have 1 to 128 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters");
    }
    Ok(())
}

/// A text, and how it begins: most comparisons of two end there, and don't follow a pointer.
#[derive(Clone)]
struct Text {
    /// The first eight bytes as a number, the first one the highest; past the end, zeros. Of two texts the smaller never
    /// has the larger one.
    beginning: u64,
    all: Arc<str>,
}

impl Text {
    fn new(all: Arc<str>) -> Self {
        let mut first = [0; 8];
        first.iter_mut().zip(all.bytes()).for_each(|(place, byte)| *place = byte);
        Self { beginning: u64::from_be_bytes(first), all }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.beginning == other.beginning && self.all == other.all
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.beginning.cmp(&other.beginning).then_with(|| self.all.cmp(&other.all))
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.all.hash(state);
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            /// Checks and takes the text.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                match $check(text) {
                    Ok(()) => Ok(Self(Text::new(text.into()))),
                    Err(why) => Err(InvalidName { what: $what, text: text.chars().take(160).collect(), why }),
                }
            }

            /// Takes a text that came out of a store, where only checked names were put in.
            pub fn trusted(text: impl Into<Arc<str>>) -> Self {
                Self(Text::new(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0.all
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// A task's identity, the same from submit to the end, everywhere: `[A-Za-z0-9._-]{1,128}`.
    TaskId, "task id", check_word
);
name!(
    /// What a task is about; names the handler. Kinds that begin with `_` are Steadfast's own.
    Kind, "kind", check_word
);
name!(
    /// Where a task waits; limits belong to a queue.
    Queue, "queue", check_word
);
name!(
    /// A place that at most one unfinished task holds, for example a user's session.
    Slot, "slot", check_text
);
name!(
    /// An idempotency key: a second submit with the same key is answered with the first one's task.
    Key, "idempotency key", check_text
);
name!(
    /// One incarnation of a worker: made anew at each start, so that a returning name can't keep a dead one's leases.
    WorkerId, "worker id", check_word
);
name!(
    /// The identity of a store, made when it is created: two processes on two databases find out.
    StoreId, "store id", check_word
);

impl Kind {
    /// Whether the kind is one of Steadfast's own, refused from clients.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with('_')
    }
}

impl Queue {
    /// The queue of tasks that name none: `default`.
    pub fn default_queue() -> Self {
        Self::trusted("default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_directory_or_a_line_are_refused() {
        for text in ["", "../../x", "a/b", "a b", "..", ".", "é", "a\n", &"x".repeat(129)] {
            assert!(TaskId::new(text).is_err(), "{text:?}");
        }
        for text in ["my-run.7", "_run", "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", &"x".repeat(128)] {
            assert!(TaskId::new(text).is_ok(), "{text:?}");
        }
        assert!(Slot::new("user:42/chat").is_ok());
        assert!(Key::new("a\0b").is_err());
    }

    #[test]
    fn names_have_the_order_of_their_texts() {
        let texts =
            ["a", "a-b", "abcdefg", "abcdefgh", "abcdefghi", "abcdefghj", "b", "Z", "task-10", "task-9", "é"];
        for one in texts {
            for other in texts {
                let (a, b) = (Slot::new(one).unwrap(), Slot::new(other).unwrap());
                assert_eq!(a.cmp(&b), one.cmp(other), "{one} {other}");
                assert_eq!(a == b, one == other, "{one} {other}");
            }
        }
    }

    #[test]
    fn an_invalid_name_says_what_and_why() {
        let error = TaskId::new("../../x").unwrap_err().to_string();
        assert_eq!(error, r#"task id "../../x" may contain only letters, digits, '.', '_' and '-'"#);
    }
}
