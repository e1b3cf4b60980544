//! How a task is tried again because somebody says so.

use crate::name::{NAME_BYTES_MAX, TaskId};
use crate::step::{Change, Guard, States, Transition};
use crate::task::{Due, Fence, NewTask, OnConflict, State, Task};

/// How many tasks may have been made from one by retrying it.
pub const RETRIES_MAX: u32 = 1_000;

const SUFFIX: &str = ".retry";
/// Room for the suffix with its number, and some more: what a family is called must not change.
const SUFFIX_BYTES_MAX: usize = SUFFIX.len() + 10;

/// Makes a task that waits for its time, and was last seen under this fence, due at once.
pub fn hasten(task: &TaskId, fence: Fence) -> Transition {
    let guard = Guard {
        from: States::of(&[State::Scheduled]),
        // So that hastening it after another attempt is another transition.
        fence: Some(fence),
        unless_cancel_requested: false,
        lease_lapsed: false,
        overdue: false,
    };
    Transition::new(task.clone(), guard, Change::to(State::Ready))
}

/// The task that runs in place of one that failed or was cancelled: the n-th of its family, from 1. It is what was asked
/// for then, due at once, with as long until its deadline as the first had; without its key, which stays the first
/// one's, and without its parents, which have ended. A held slot refuses it.
pub fn retry_of(ended: &Task, number: u32) -> NewTask {
    let id = match number {
        1 => format!("{}{SUFFIX}", family(&ended.id).0),
        _ => format!("{}{SUFFIX}{number}", family(&ended.id).0),
    };
    NewTask {
        queue: ended.queue.clone(),
        slot: ended.slot.clone().map(|slot| (slot, OnConflict::Reject)),
        priority: ended.priority,
        deadline: ended.deadline_at.map(|at| Due::After(at.since(ended.submitted_at))),
        attempts_max: ended.attempts_max,
        rescues_max: ended.rescues_max,
        timeout: ended.timeout,
        backoff: ended.backoff,
        ..NewTask::new(TaskId::trusted(id), ended.kind.clone(), ended.payload.clone())
    }
}

/// The number of the first task that may run in place of this one: it is the next of its family.
pub fn first_retry(id: &TaskId) -> u32 {
    family(id).1.saturating_add(1)
}

/// What the ids of a family begin with, and the number of this one of them; 0 is the task that was submitted.
fn family(id: &TaskId) -> (String, u32) {
    let text = id.as_str();
    let of_retry = text.rsplit_once(SUFFIX).and_then(|(base, number)| match number {
        "" => Some((base, 1)),
        _ if number.starts_with(['0', '+']) => None,
        // A larger number is of whoever chose the id: `report.retry2024`.
        _ => Some((base, number.parse().ok().filter(|number| (2..=RETRIES_MAX).contains(number))?)),
    });
    match of_retry {
        Some((base, number)) if !base.is_empty() && base.len() + SUFFIX_BYTES_MAX <= NAME_BYTES_MAX => {
            (base.to_owned(), number)
        }
        _ if text.len() + SUFFIX_BYTES_MAX <= NAME_BYTES_MAX => (text.to_owned(), 0),
        // Cut, with a hash of the whole that tells it from others that begin alike. Ids are ASCII.
        _ => {
            let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
            let kept = NAME_BYTES_MAX - SUFFIX_BYTES_MAX - 17;
            (format!("{}.{hash:016x}", &text[..text.floor_char_boundary(kept)]), 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: &str, expected: &str) {
        let id = TaskId::trusted(id);
        let number = first_retry(&id);
        let suffix = if number == 1 { String::new() } else { number.to_string() };
        let next = format!("{}{SUFFIX}{suffix}", family(&id).0);
        assert_eq!(next, expected);
        assert!(TaskId::new(next).is_ok());
    }

    #[test]
    fn the_retries_of_a_task_and_of_its_retries_are_one_family() {
        check("scan", "scan.retry");
        check("scan.retry", "scan.retry2");
        check("scan.retry2", "scan.retry3");
        check("scan.retry999", "scan.retry1000");
        // Not ours.
        check("scan.retry1", "scan.retry1.retry");
        check("scan.retry2024", "scan.retry2024.retry");
        check("scan.retry02", "scan.retry02.retry");
        check("scan.retrying", "scan.retrying.retry");
        check(".retry", ".retry.retry");
    }

    #[test]
    fn long_ids_that_begin_alike_have_families_of_their_own() {
        let (a, b) = (format!("{}a", "x".repeat(127)), format!("{}b", "x".repeat(127)));
        let base = |id: &str| family(&TaskId::trusted(id.to_owned())).0;
        assert_ne!(base(&a), base(&b));
        let retry = format!("{}.retry", base(&a));
        assert!(TaskId::new(&retry).is_ok());
        assert_eq!(family(&TaskId::trusted(retry)), (base(&a), 1));
    }
}
