//! Streams of events that end anywhere and are resumed with `Last-Event-ID`, through partitions, losses, crashes and
//! restarts: every client is told each revision at most once, in order, and of exactly one end. Also of a task that
//! never ran.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use steadfast::State;
use steadfast_sim::world::World;
use tokio::time::timeout;

use super::client::{Client, EventStream, Next, Opened, Told, state_of};
use super::net::{Net, Outcome, SERVER, changes};
use super::process::Roles;
use super::weather::{Blow, Weather};
use super::{found, judge, sweep};

/// How long a client bears silence before it connects anew.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// A task that waits for its time until it is cancelled.
const NEVER_RUNS: &str = "t9";
/// The tasks that are watched.
const TASKS: [&str; 3] = ["t1", "t2", NEVER_RUNS];

/// What each client was told of its task.
type Watched = Rc<RefCell<BTreeMap<&'static str, Vec<Told>>>>;

#[test]
fn each_event_comes_once_and_one_end_however_often_the_stream_breaks() {
    let goals =
        ["a stream was resumed", "a stream broke", "a stream fell silent", "a task that never ran was told"];
    sweep("network::events", &goals, |seed| run(seed, true));
}

/// A server that ignores `Last-Event-ID` is the same as a client that sends none.
#[test]
fn a_last_event_id_that_is_ignored_is_noticed() {
    let complaints = found(|seed| run(seed, false)).join("\n");
    assert!(complaints.contains("events came twice"), "{complaints}");
}

/// Far longer than one look of the server at a task that doesn't change.
const QUIET: Duration = Duration::from_secs(63);

#[test]
fn a_silent_stream_says_that_it_is_alive_and_repeats_nothing() {
    let mut net = Net::new(0);
    net.calm();
    net.process(SERVER, Roles { serves: true, works: false });
    net.client(async |client: Client| {
        client.submit(NEVER_RUNS, r#","delay":"1h""#).await;
        let Ok(Opened::Stream(mut stream)) = client.events(NEVER_RUNS, None).await else {
            return client.notes.complain("there was no stream");
        };
        let first = stream.next().await;
        let more = timeout(QUIET, stream.next()).await;
        if !matches!(first, Next::Told(_)) || more.is_ok() || stream.signs_of_life < 4 {
            let alive = stream.signs_of_life;
            client.notes.complain(format!("{first:?}, then {more:?}, and {alive} signs of life"));
        }
        client.cancel(NEVER_RUNS).await;
    });
    let outcome = net.run(|_, _| {});
    assert!(outcome.complaints.is_empty(), "{:?}", outcome.complaints);
}

fn run(seed: u64, resumes: bool) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    net.client(submit_and_cancel);
    let watched = Watched::default();
    for task in TASKS {
        let watched = watched.clone();
        net.client(move |client| async move {
            let told = watch(&client, task, resumes).await;
            watched.borrow_mut().insert(task, told);
        });
    }
    let blows =
        [Blow::Partition, Blow::Stall, Blow::Crash(SERVER), Blow::Unplug(SERVER), Blow::Restart(SERVER)];
    net.storm(|choices, clients| Weather::draw(choices, clients, &blows, 6));
    net.run(|world, notes| {
        for (task, told) in &*watched.borrow() {
            for wrong in judge::events(&committed(world, task), told) {
                notes.complain(format!("{task}: {wrong}"));
            }
            if *task == NEVER_RUNS && told.iter().all(|event| state_of(&event.state) != State::Running) {
                notes.reach("a task that never ran was told");
            }
        }
    })
}

/// The revisions of a task, as they were committed.
pub(super) fn committed(world: &World, task: &str) -> Vec<(u64, State)> {
    let of_task = changes(world).into_iter().filter(|(_, after)| after.id.as_str() == task);
    let mut revisions: Vec<(u64, State)> = of_task.map(|(_, after)| (after.rev, after.state)).collect();
    // A renewal is no revision.
    revisions.dedup();
    revisions
}

async fn submit_and_cancel(client: Client) {
    client.submit("t1", "").await;
    client.submit(NEVER_RUNS, r#","delay":"1h""#).await;
    client.submit("t2", r#","after":["t1"]"#).await;
    client.pause("before the cancel", &[0, 200, 1_000, 3_000]).await;
    client.cancel(NEVER_RUNS).await;
}

/// Watches a task to its end, as a browser does: comes back until it is told not to.
async fn watch(client: &Client, task: &str, resumes: bool) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    loop {
        let last = told.last().map(|event| event.rev).filter(|_| resumes);
        let asked_at = client.world.now();
        match client.events(task, last).await {
            Ok(Opened::Over) => return told,
            Ok(Opened::Stream(stream)) => {
                if last.is_some() {
                    client.notes.reach("a stream was resumed");
                }
                for event in read(client, stream).await {
                    client.shown(task, event.rev, &event.state, asked_at);
                    told.push(event);
                }
            }
            Ok(Opened::Later) | Err(_) => {}
        }
        let ends = told.iter().filter(|event| state_of(&event.state).is_terminal()).count();
        if ends > 1 {
            // It would be told so for ever.
            return told;
        }
        client.rest().await;
    }
}

/// Reads a stream until it ends, breaks or falls silent, or the client has had enough of it.
async fn read(client: &Client, mut stream: EventStream) -> Vec<Told> {
    let enough = [usize::MAX, 1, 2, 3][client.pick("enough events", 4) as usize];
    let mut told = Vec::new();
    while told.len() < enough {
        match timeout(SILENCE_MAX, stream.next()).await {
            Ok(Next::Told(event)) => told.push(event),
            Ok(Next::End) => break,
            Ok(Next::Broken) => {
                client.notes.reach("a stream broke");
                break;
            }
            Err(_) => {
                client.notes.reach("a stream fell silent");
                break;
            }
        }
    }
    told
}
