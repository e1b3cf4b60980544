//! A disk that fills up under a server, and is freed again.

use std::path::Path;
use std::process::Command;

use crate::place::{Place, Server, until};

/// The disk, and what is freed of it later. The rest is soon full.
const DISK: &str = "size=6m";
const BALLAST_BYTES: usize = 3 << 20;
/// The payload of one task.
const PAYLOAD_BYTES: usize = 64 << 10;
/// More tasks than the disk has room for.
const POSTS_MAX: usize = 200;

/// `echo` gives its payload back, once there is a file `go`.
const CONFIG: &str = r#"
[handlers.echo]
exec = ["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; cat > $STEADFAST_OUTPUT"]
attempts = 1
rescues = 100
"#;

/// A file system of its own in a directory, taken away with the test.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None` where nothing may be mounted: that takes root.
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Lazily: a process of a test that failed may still have files there.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).output();
    }
}

#[test]
fn a_full_disk_is_said_clearly_and_loses_nothing_that_was_acknowledged() {
    let place = Place::with(CONFIG);
    let directory = place.path().join("disk");
    let Some(_disk) = Disk::mount(&directory) else {
        eprintln!(
            "skipped: a_full_disk_is_said_clearly_and_loses_nothing_that_was_acknowledged (mounting a tmpfs takes root)"
        );
        return;
    };
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let store = format!("sqlite:{}", directory.join("tasks.db").display());
    let start = || Server::start(&place, &["--store", &store, "--lease", "2s"]);
    let server = start();

    let mut acknowledged = Vec::new();
    let refused = (0..POSTS_MAX).find_map(|number| {
        let answer = server.post("/v1/tasks", &request(number));
        if answer.status == 201 {
            assert_eq!(answer.json()["id"], format!("t-{number}"));
            acknowledged.push(number);
            return None;
        }
        Some((number, answer))
    });
    let (first_refused, answer) = refused.expect("the disk is full before all are posted");
    assert!(!acknowledged.is_empty());
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text.contains("full") && answer.text.contains("free some space"), "{answer:?}");
    // What is stored can still be read.
    let first = server.get("/v1/tasks/t-0");
    assert_eq!((first.status, &first.json()["id"]), (200, &"t-0".into()));

    std::fs::remove_file(&ballast).unwrap();
    let again = until("the refused one is taken", || {
        let answer = server.post("/v1/tasks", &request(first_refused));
        (answer.status != 503).then_some(answer)
    });
    assert!(again.status == 201 || again.status == 200, "{again:?}");
    acknowledged.push(first_refused);

    // Nothing depends on what the process remembers.
    let mut server = server;
    server.process.signal(rustix::process::Signal::KILL);
    server.process.ended();
    let server = start();
    std::fs::write(place.path().join("go"), "").unwrap();
    for number in acknowledged {
        let task = server.get(&format!("/v1/tasks/t-{number}?wait=60s")).json();
        assert_eq!(task["state"], "succeeded", "{}", task["error"]);
        assert_eq!(task["payload"], payload(number));
        assert_eq!(task["output"], payload(number));
    }
    server.stop();
}

fn payload(number: usize) -> String {
    format!("{number} {}", "x".repeat(PAYLOAD_BYTES))
}

fn request(number: usize) -> String {
    format!(r#"{{"kind":"echo","id":"t-{number}","payload":"{}"}}"#, payload(number))
}
