//! Identities that nobody chose: of tasks and of workers.

use steadfast_core::{TaskId, WorkerId};
use uuid::Uuid;

/// How much of the host's name goes into a worker's.
const HOST_BYTES_MAX: usize = 64;

/// A new task id: a UUIDv7, so that ids sort by the time when they were made.
pub fn task_id() -> TaskId {
    TaskId::trusted(Uuid::now_v7().to_string())
}

/// A new worker id, made anew at each start: the host's name and the process's number for people, and a random part
/// that makes it one of a kind.
pub fn worker_id() -> WorkerId {
    let unique = Uuid::now_v7().simple().to_string();
    // The last twelve digits of a UUIDv7 are random.
    let random = &unique[unique.len() - 12..];
    WorkerId::trusted(format!("{}.{}.{random}", host_name(), std::process::id()))
}

/// The host's name, of letters that a worker's name may have.
fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = String::from("host");
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    name.split('.').next().unwrap_or_default().chars().map(plain).take(HOST_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_valid_names_and_differ() {
        assert!(TaskId::new(task_id().as_str()).is_ok());
        assert!(WorkerId::new(worker_id().as_str()).is_ok());
        assert_ne!(worker_id(), worker_id());
        let (earlier, later) = (task_id(), task_id());
        assert!(earlier < later, "{earlier} {later}");
    }
}
