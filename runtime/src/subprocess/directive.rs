//! What a program says to Steadfast on its stdout: `::progress`, `::checkpoint` and `::alias` lines.
//!
//! Pure: bytes in, meaning out. Whoever calls this keeps every line in the log, the malformed ones with the
//! reason, so that nothing that a program prints is ever lost to a typing error.

use std::fmt;

/// The longest name of a checkpoint and the longest alias, in bytes: the same as any id.
const NAME_BYTES_MAX: usize = 128;

/// A line that says something to Steadfast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive<'a> {
    /// `::progress 40 message`
    Progress {
        /// How much is done, 0 to 100.
        percent: u8,
        /// What is being done; may be empty.
        message: &'a str,
    },
    /// `::checkpoint NAME JSON`
    Checkpoint {
        /// The finished step's name.
        name: &'a str,
        /// Its result: one well-formed JSON value, as the program wrote it.
        json: &'a str,
    },
    /// `::alias ID`
    Alias {
        /// The id that the program made itself.
        id: &'a str,
    },
}

/// Why a line that begins like a directive isn't one. `Display` says it to the program's author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The line isn't UTF-8.
    NotUtf8,
    /// The percentage is missing or isn't a whole number from 0 to 100.
    Percent,
    /// A checkpoint's name, or an alias, isn't of the form that ids have.
    Name,
    /// What follows a checkpoint's name isn't one JSON value.
    Json,
    /// Something follows an alias.
    Trailing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "the line isn't UTF-8",
            Self::Percent => "::progress wants a whole number from 0 to 100, then a message",
            Self::Name => "a checkpoint's name and an alias match [A-Za-z0-9._-]{1,128}",
            Self::Json => "::checkpoint wants a name and then one JSON value",
            Self::Trailing => "::alias wants one id and nothing after it",
        })
    }
}

impl std::error::Error for Malformed {}

/// Reads one line of stdout, without its newline: `None` for an ordinary line, which is any line that
/// doesn't begin with one of the three words. Only whole lines may be given; see [`Line`](super::Line).
///
/// # Errors
/// The line begins with one of the words and goes on wrongly.
pub fn directive(line: &[u8]) -> Result<Option<Directive<'_>>, Malformed> {
    if !line.starts_with(b"::") {
        return Ok(None);
    }
    let line = line.trim_ascii_end();
    let word_end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = line.split_at(word_end);
    let read: fn(&str) -> Result<Directive<'_>, Malformed> = match word {
        b"::progress" => progress,
        b"::checkpoint" => checkpoint,
        b"::alias" => alias,
        _ => return Ok(None),
    };
    let rest = str::from_utf8(rest).map_err(|_| Malformed::NotUtf8)?;
    read(rest.trim_ascii_start()).map(Some)
}

fn progress(rest: &str) -> Result<Directive<'_>, Malformed> {
    let (number, message) = split_word(rest);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse() {
        Ok(percent @ 0..=100) if digits => Ok(Directive::Progress { percent, message }),
        _ => Err(Malformed::Percent),
    }
}

fn checkpoint(rest: &str) -> Result<Directive<'_>, Malformed> {
    let (name, json) = split_word(rest);
    if !is_name(name) {
        return Err(Malformed::Name);
    }
    match serde_json::from_str::<&serde_json::value::RawValue>(json) {
        Ok(value) => Ok(Directive::Checkpoint { name, json: value.get() }),
        Err(_) => Err(Malformed::Json),
    }
}

fn alias(rest: &str) -> Result<Directive<'_>, Malformed> {
    let (id, after) = split_word(rest);
    if !is_name(id) {
        return Err(Malformed::Name);
    }
    if after.is_empty() { Ok(Directive::Alias { id }) } else { Err(Malformed::Trailing) }
}

/// The first word, and what follows it without the space between them.
fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_ascii_start())
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<Option<Directive<'_>>, Malformed>) {
        assert_eq!(directive(line.as_bytes()), expected, "{line:?}");
    }

    #[test]
    fn well_formed_lines_are_directives() {
        let progress = |percent, message| Ok(Some(Directive::Progress { percent, message }));
        check("::progress 40 half of it", progress(40, "half of it"));
        check("::progress 0", progress(0, ""));
        check("::progress\t100   züg  é \r", progress(100, "züg  é"));
        let checkpoint = |name, json| Ok(Some(Directive::Checkpoint { name, json }));
        check("::checkpoint step-1 {\"rows\": [1, 2]}", checkpoint("step-1", "{\"rows\": [1, 2]}"));
        check("::checkpoint a 1\r", checkpoint("a", "1"));
        check("::checkpoint a \"b c\"", checkpoint("a", "\"b c\""));
        check("::alias run_2024.x", Ok(Some(Directive::Alias { id: "run_2024.x" })));
    }

    #[test]
    fn other_lines_are_ordinary() {
        for line in
            ["", "hello", ":progress 4", " ::progress 4", "::progression 4", "::group::x", "::", "x::alias y"]
        {
            check(line, Ok(None));
        }
        assert_eq!(directive(b"::\xff\xfe"), Ok(None));
    }

    #[test]
    fn malformed_lines_say_what_is_wrong() {
        for line in [
            "::progress",
            "::progress x",
            "::progress 101",
            "::progress -1",
            "::progress +5",
            "::progress 4.5",
            "::progress 40%",
        ] {
            check(line, Err(Malformed::Percent));
        }
        check("::checkpoint", Err(Malformed::Name));
        check("::checkpoint a/b 1", Err(Malformed::Name));
        for line in ["::checkpoint a", "::checkpoint a {", "::checkpoint a 1 2", "::checkpoint a nope"] {
            check(line, Err(Malformed::Json));
        }
        check("::alias", Err(Malformed::Name));
        check(&format!("::alias {}", "x".repeat(NAME_BYTES_MAX + 1)), Err(Malformed::Name));
        check("::alias a b", Err(Malformed::Trailing));
        assert_eq!(directive(b"::progress 4 \xff"), Err(Malformed::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = directive(&line);
        }

        #[test]
        fn any_tail_after_a_word_is_read_without_a_panic(
            word in prop_oneof!["::progress ", "::checkpoint ", "::alias "], tail in ".{0,80}",
        ) {
            let _ = directive(format!("{word}{tail}").as_bytes());
        }

        #[test]
        fn what_is_well_formed_comes_back_as_written(
            percent in 0u8..=100, message in "[a-z]{1,8}( [a-z0-9é]{1,8}){0,4}", name in "[A-Za-z0-9._-]{1,128}",
            number in any::<i64>(),
        ) {
            let json = number.to_string();
            let line = format!("::progress {percent} {message}");
            prop_assert_eq!(directive(line.as_bytes()), Ok(Some(Directive::Progress { percent, message: &message })));
            let line = format!("::checkpoint {name} {json}");
            prop_assert_eq!(directive(line.as_bytes()), Ok(Some(Directive::Checkpoint { name: &name, json: &json })));
            let line = format!("::alias {name}");
            prop_assert_eq!(directive(line.as_bytes()), Ok(Some(Directive::Alias { id: &name })));
        }
    }
}
