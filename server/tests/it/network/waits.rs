//! Long polls through crashes and partitions: nobody who waits is answered before there is something to tell, or
//! told less than before; and once faults have stopped, everybody is told of the end in time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use steadfast::{State, Task, Timestamp};
use steadfast_server::wire::TaskJson;
use steadfast_sim::history::Event;
use steadfast_sim::world::World;

use super::client::{Client, state_of};
use super::net::{Net, Outcome, SERVER, changes};
use super::process::Roles;
use super::weather::{Blow, Weather};
use super::{judge, sweep};

/// How long one question waits.
const WAIT: Duration = Duration::from_secs(3);
/// Timers and clocks are whole milliseconds, and the client's aren't the server's.
const ROUNDING: Duration = Duration::from_millis(10);
/// How late a waiter may be told in calm: the way there and back, and the poll that makes up for a hint that was lost
/// before.
const LATE_MAX: Duration = Duration::from_millis(500);

/// A question that was answered with a task.
struct Waited {
    task: &'static str,
    /// Whether any later revision was asked for, or else the end.
    after: Option<u64>,
    asked: Timestamp,
    told: Timestamp,
    state: State,
}

type Answers = Rc<RefCell<Vec<Waited>>>;

#[test]
fn whoever_waits_is_told_in_time_and_not_before() {
    let goals = [
        "a wait was lost",
        "a wait was over before anything changed",
        "a change was told",
        "the end was told in calm",
    ];
    sweep("network::waits", &goals, run);
}

fn run(seed: u64) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    net.client(async |client: Client| {
        client.submit("t1", "").await;
        // One that ends when faults have stopped.
        client.submit("t2", r#","delay":"5500ms""#).await;
    });
    let answers = Answers::default();
    for (task, steps) in [("t1", true), ("t2", false), ("t2", true)] {
        let answers = answers.clone();
        net.client(move |client| wait(client, task, steps, answers));
    }
    let blows = [Blow::Partition, Blow::Stall, Blow::Crash(SERVER), Blow::Unplug(SERVER)];
    net.storm(|choices, clients| Weather::draw(choices, clients, &blows, 5));
    net.run(|world, notes| {
        let healed = healed_at(world);
        for Waited { task, after, asked, told, state } in &*answers.borrow() {
            let of_task: Vec<_> =
                changes(world).into_iter().filter(|(_, changed)| changed.id.as_str() == *task).collect();
            let end = of_task.last().map(|(_, changed)| changed.state);
            if state.is_terminal() && end != Some(*state) {
                notes.complain(format!("{task} was told to have {state}, and ended as {end:?}"));
            }
            let is_awaited = |changed: &Task| {
                changed.state.is_terminal() || after.is_some_and(|after| changed.rev > after)
            };
            let awaited = of_task.iter().find(|(_, changed)| is_awaited(changed));
            let (Some((entry, _)), true) = (awaited, *asked > healed) else { continue };
            if state.is_terminal() {
                notes.reach("the end was told in calm");
            }
            if let Some(wrong) = judge::told_in_time(entry.at, *asked, *told, LATE_MAX) {
                notes.complain(format!("{task} after {after:?}: {wrong}"));
            }
        }
    })
}

fn healed_at(world: &World) -> Timestamp {
    let entries = world.history().entries();
    let healed = entries.iter().find(|entry| matches!(entry.event, Event::Healed));
    healed.expect("a run at rest was healed").at
}

/// Waits for a task's end; with `steps`, for each change on the way.
async fn wait(client: Client, task: &'static str, steps: bool, answers: Answers) {
    let mut known: Option<u64> = None;
    loop {
        let after = known.filter(|_| steps);
        let after_text = after.map_or_else(String::new, |rev| format!("&after={rev}"));
        let path = format!("/v1/tasks/{task}?wait={}s{after_text}", WAIT.as_secs());
        let asked = client.world.now();
        let Ok(answer) = client.ask(Method::GET, &path, &[], "", WAIT).await else {
            client.notes.reach("a wait was lost");
            client.rest().await;
            continue;
        };
        // It isn't there yet, or the store can't be reached.
        if answer.status != 200 {
            assert!(matches!(answer.status, 404 | 503), "waiting for {task}: {}", answer.status);
            assert!(answer.status == 503 || known.is_none(), "{task} was there");
            client.rest().await;
            continue;
        }
        let shown: TaskJson = answer.json();
        assert_eq!(answer.headers["etag"], format!("\"{}\"", shown.rev));
        let told = client.world.now();
        client.shown(task, shown.rev, &shown.state, asked);
        let is_news = after.is_some_and(|after| shown.rev > after);
        answers.borrow_mut().push(Waited { task, after, asked, told, state: state_of(&shown.state) });
        if shown.has_ended() {
            return;
        }
        if is_news {
            client.notes.reach("a change was told");
        } else if told.since(asked) + ROUNDING >= WAIT {
            client.notes.reach("a wait was over before anything changed");
        } else {
            client.notes.complain(format!("a wait for {task} was over after {:?}", told.since(asked)));
        }
        known = Some(shown.rev);
    }
}
