//! What must hold of what clients were told, beside the oracle's properties of the store. Each is tested on made
//! answers to be able to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steadfast::{State, Timestamp};

use super::client::{Told, state_of};

/// What is wrong with all events that one client was told of one task, over all its streams, where these revisions were
/// committed: each comes once, in order, as it was; and exactly one end, last.
pub(super) fn events(committed: &[(u64, State)], told: &[Told]) -> Vec<String> {
    let mut wrong = Vec::new();
    let revs: Vec<u64> = told.iter().map(|event| event.rev).collect();
    if !revs.is_sorted_by(|a, b| a < b) {
        wrong.push(format!("events came twice, or out of order: {revs:?}"));
    }
    for event in told {
        let was = committed.iter().find(|(rev, _)| *rev == event.rev).map(|(_, state)| *state);
        if was != Some(state_of(&event.state)) {
            wrong.push(format!("revision {} was told as {}, and was {was:?}", event.rev, event.state));
        }
    }
    let ends: Vec<&Told> = told.iter().filter(|event| state_of(&event.state).is_terminal()).collect();
    let last = committed.last().map(|(rev, _)| *rev);
    match ends[..] {
        [end] if told.last() == Some(end) && last == Some(end.rev) && is_end(&end.name) => {}
        _ => wrong.push(format!("the end wasn't told once and last: {told:?}")),
    }
    wrong
}

fn is_end(name: &str) -> bool {
    ["task_succeeded", "task_failed", "task_cancelled"].contains(&name)
}

/// What a client was answered for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyed {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) new: bool,
}

/// What is wrong with the answers to submits with keys, where these tasks are stored, by id and key: one key stands for
/// one task, under the id that is answered, and is new at most once.
pub(super) fn keys(stored: &BTreeMap<String, Option<String>>, answers: &[Keyed]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut new = BTreeSet::new();
    for Keyed { key, id, new: is_new } in answers {
        let ids: Vec<&String> =
            stored.iter().filter(|(_, of)| of.as_ref() == Some(key)).map(|(id, _)| id).collect();
        if ids != [id] {
            wrong.push(format!("the key {key} was answered with {id}, and stands for {ids:?}"));
        }
        if *is_new && !new.insert(key) {
            wrong.push(format!("the key {key} was new twice"));
        }
    }
    wrong
}

/// What is wrong where a waiter who had asked at `asked` was told at `told` of what was committed at `ended`.
pub(super) fn told_in_time(
    ended: Timestamp,
    asked: Timestamp,
    told: Timestamp,
    most: Duration,
) -> Option<String> {
    let due = ended.max(asked) + most;
    let late = told.since(due);
    (!late.is_zero()).then(|| format!("a waiter was told {late:?} too late"))
}

/// What is wrong with an answer to a cancel, where the task ended like this: whoever is told that it has ended, or had,
/// finds it cancelled; a running one may come to its own end first; and only one that ended otherwise was too late for.
pub(super) fn cancel(word: &str, end: State) -> Option<String> {
    let fits = match word {
        "ended" | "had_ended" => end == State::Cancelled,
        "requested" => end.is_terminal(),
        "too_late" => end.is_terminal() && end != State::Cancelled,
        _ => false,
    };
    (!fits).then(|| format!("a cancel was answered {word}, and the task has {end}"))
}

#[test]
fn answers_to_cancels_that_are_wrong_are_noticed() {
    use State::{Cancelled, Running, Succeeded};
    for (word, end, fits) in [
        ("ended", Cancelled, true),
        ("ended", Succeeded, false),
        ("had_ended", Cancelled, true),
        ("had_ended", Running, false),
        ("requested", Succeeded, true),
        ("requested", Running, false),
        ("too_late", Succeeded, true),
        ("too_late", Cancelled, false),
    ] {
        assert_eq!(cancel(word, end).is_none(), fits, "{word} {end}");
    }
}

#[test]
fn events_that_are_wrong_are_noticed() {
    let committed = [(1, State::Ready), (2, State::Running), (3, State::Running), (4, State::Succeeded)];
    let told = |events: &[(u64, &str, &str)]| -> Vec<Told> {
        let told = |(rev, name, state): &(u64, &str, &str)| Told {
            rev: *rev,
            name: (*name).into(),
            state: (*state).into(),
        };
        events.iter().map(told).collect()
    };
    let started = (2, "task_started", "running");
    let end = (4, "task_succeeded", "succeeded");
    let complaints = |of: &[(u64, &str, &str)]| events(&committed, &told(of)).len();
    assert_eq!(complaints(&[started, end]), 0);
    assert_eq!(complaints(&[end]), 0);
    for wrong in [
        &[started, started, end][..],
        &[started, end, end],
        &[(3, "task_started", "running"), started, end],
        &[started],
        &[(2, "task_started", "ready"), end],
        &[started, (3, "task_succeeded", "succeeded")],
        &[started, (4, "task_changed", "succeeded")],
        &[],
    ] {
        assert!(complaints(wrong) > 0, "{wrong:?}");
    }
}

#[test]
fn answers_to_keys_that_are_wrong_are_noticed() {
    let stored = |tasks: &[(&str, Option<&str>)]| -> BTreeMap<String, Option<String>> {
        tasks.iter().map(|(id, key)| ((*id).to_owned(), key.map(str::to_owned))).collect()
    };
    let answer = |id: &str, new| Keyed { key: "k".into(), id: id.into(), new };
    let one = stored(&[("a", Some("k")), ("b", None)]);
    assert_eq!(keys(&one, &[answer("a", true), answer("a", false)]), Vec::<String>::new());
    assert_eq!(keys(&one, &[answer("a", true), answer("a", true)]).len(), 1);
    assert_eq!(keys(&one, &[answer("b", false)]).len(), 1);
    assert_eq!(keys(&stored(&[("a", Some("k")), ("b", Some("k"))]), &[answer("a", true)]).len(), 1);
    assert_eq!(keys(&stored(&[("a", None)]), &[answer("a", true)]).len(), 1);
}

#[test]
fn a_waiter_who_is_told_late_is_noticed() {
    let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
    let most = Duration::from_secs(1);
    assert_eq!(told_in_time(at(5), at(1), at(6), most), None);
    assert_eq!(told_in_time(at(5), at(8), at(9), most), None);
    assert!(told_in_time(at(5), at(1), at(7), most).is_some());
    assert!(told_in_time(at(5), at(8), at(10), most).is_some());
}
