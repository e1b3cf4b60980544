//! Ids and other names, the parameters of a query, and where a store is.

use std::fmt::{Debug, Display};
use std::path::{Component, Path};
use std::str::FromStr;

use steadfast::core::name::{InvalidName, NAME_BYTES_MAX, WorkerId};
use steadfast::{Key, Kind, Queue, Slot, StoreUrl, TaskId};
use steadfast_server::api;

use crate::Target;

pub(crate) const TARGET: Target =
    Target { name: "names", about: "an id, a parameter of a query, or a store's URL", run };

fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    for word in [
        name::<TaskId>(text, TaskId::as_str),
        name::<Kind>(text, Kind::as_str),
        name::<Queue>(text, Queue::as_str),
        name::<WorkerId>(text, WorkerId::as_str),
    ] {
        // It becomes the name of a file, a word of a line, a variable of an environment.
        assert!(
            word.is_none_or(|word| is_one_file(&word) && !word.contains(char::is_whitespace)),
            "{text:?}"
        );
    }
    for printable in [name::<Slot>(text, Slot::as_str), name::<Key>(text, Key::as_str)] {
        assert!(printable.is_none_or(|text| !text.contains(char::is_control)), "{text:?}");
    }
    parameters(text);
    store(text);
}

fn name<T: FromStr<Err = InvalidName> + Display + Debug + PartialEq>(
    text: &str,
    as_str: fn(&T) -> &str,
) -> Option<String> {
    match text.parse::<T>() {
        Ok(name) => {
            assert_eq!(as_str(&name), text);
            assert!((1..=NAME_BYTES_MAX).contains(&text.len()));
            assert_eq!(name.to_string().parse(), Ok(name));
            Some(text.to_owned())
        }
        Err(error) => {
            assert!(error.to_string().len() < 2_000, "{error}");
            None
        }
    }
}

fn is_one_file(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

fn parameters(text: &str) {
    if let Ok(state) = api::state(text) {
        assert_eq!(state.as_str(), text);
    }
    if let Ok(limit) = api::limit(text) {
        assert!((1..=steadfast_server::service::LIST_MAX).contains(&limit));
    }
    if let Ok((fence, number)) = api::place(text) {
        assert_eq!(api::place(&format!("{fence}.{number}")), Ok((fence, number)));
    }
}

fn store(text: &str) {
    let shown = match text.parse::<StoreUrl>() {
        Ok(StoreUrl::Sqlite(_) | StoreUrl::SqliteInMemory) => return,
        Ok(url @ StoreUrl::Postgres(_)) => format!("{url} {url:?}"),
        Err(error) => error.to_string(),
    };
    // What stands between the last two of `:` and `@` is a password.
    let password = text.rsplit_once('@').and_then(|(before, _)| before.rsplit_once(':'));
    if let Some((_, password)) = password {
        // One that stands elsewhere as well is no secret, and an escape, `\0`, can make it so.
        let escaped = text.escape_debug().to_string();
        let is_told_apart = password.len() >= 6
            && password.chars().all(|c| c.is_ascii_digit())
            && escaped.matches(password).count() == 1;
        assert!(!is_told_apart || !shown.contains(password), "a password is shown: {shown}");
    }
}
