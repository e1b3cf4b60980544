//! A server that is asked to end while streams of events, long polls and half a request are open: streams end
//! whole, polls are answered, nobody holds it up, and whoever comes back to the next server misses nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use steadfast::Timestamp;
use steadfast_server::api::LAST_ANSWERS_MAX;
use steadfast_server::wire::TaskJson;
use steadfast_sim::choices::Stream;
use steadfast_sim::history::Event;
use steadfast_sim::world::{EPOCH, World};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use turmoil::net::TcpStream;

use super::client::{Client, Next, Opened, Told, state_of};
use super::events::committed;
use super::net::{Net, Outcome, SERVER};
use super::process::{GRACE, PORT, Roles, TOKEN};
use super::weather::{Deed, Weather};
use super::{judge, sweep};

/// How long the way, the last look at the store and the end of a connection may take.
const PROMPTLY: Duration = Duration::from_millis(500);
/// How long a question waits: far longer than the run.
const WAIT: Duration = Duration::from_secs(30);
/// The task that is watched: it waits for its time until the next server cancels it.
const WATCHED: &str = "t9";

/// When the streams ended and the polls were answered that were open then.
#[derive(Debug, Default)]
struct Seen {
    told: Vec<Told>,
    streams_ended: Vec<Timestamp>,
    polls_answered: Vec<Timestamp>,
}

#[test]
fn a_server_that_ends_lets_go_of_everybody_and_the_next_goes_on() {
    sweep("network::drains", &["an attempt was given back", "half a request was open"], run);
}

fn run(seed: u64) -> Outcome {
    let mut net = Net::new(seed);
    net.calm();
    net.process(SERVER, Roles { serves: true, works: true });
    let later = net.choices.pick(Stream::Faults, "when it is drained", 0, 1_000);
    let drained = Duration::from_millis(1_000 + u64::from(later));
    let restarted = drained + GRACE + LAST_ANSWERS_MAX + PROMPTLY;
    let seen = Rc::new(RefCell::new(Seen::default()));
    net.client(move |client| submit_and_cancel(client, restarted));
    let (of_watcher, of_waiter) = (seen.clone(), seen.clone());
    net.client(|client| watch(client, of_watcher));
    net.client(|client| wait(client, of_waiter));
    net.client(hang);
    net.storm(|_, _| Weather::of([(drained, Deed::Drain(SERVER)), (restarted, Deed::Start(SERVER))]));
    net.run(|world, notes| {
        for wrong in wrong_end(world, &seen.borrow(), EPOCH + drained) {
            notes.complain(wrong);
        }
        if world.history().tasks().values().any(|task| task.fence > u64::from(task.attempt)) {
            notes.reach("an attempt was given back");
        }
    })
}

fn wrong_end(world: &World, seen: &Seen, drained: Timestamp) -> Vec<String> {
    let mut wrong = judge::events(&committed(world, WATCHED), &seen.told);
    for (what, ends) in [("stream", &seen.streams_ended), ("poll", &seen.polls_answered)] {
        match ends[..] {
            [end] if end >= drained && end.since(drained) < PROMPTLY => {}
            _ => wrong.push(format!("the {what} that was open at {drained:?} ended at {ends:?}")),
        }
    }
    let entries = world.history().entries();
    let is_end = |event: &Event| matches!(event, Event::Crashed { node } if node == "server.0");
    let ended = entries.iter().find(|entry| is_end(&entry.event)).map(|entry| entry.at);
    if ended.is_none_or(|ended| ended.since(drained) > GRACE + LAST_ANSWERS_MAX + PROMPTLY) {
        wrong.push(format!("asked to end at {drained:?}, the server ended at {ended:?}"));
    }
    wrong
}

async fn submit_and_cancel(client: Client, restarted: Duration) {
    client.submit(WATCHED, r#","delay":"1h""#).await;
    for number in 0..6 {
        client.submit(&format!("t{number}"), "").await;
        client.pause("between submits", &[50, 300, 600]).await;
    }
    let now = client.world.now().since(EPOCH);
    tokio::time::sleep((restarted + PROMPTLY).saturating_sub(now)).await;
    client.cancel(WATCHED).await;
}

/// Watches to the end; a stream that breaks is wrong here.
async fn watch(client: Client, seen: Rc<RefCell<Seen>>) {
    loop {
        let last = seen.borrow().told.last().map(|event| event.rev);
        match client.events(WATCHED, last).await {
            Ok(Opened::Over) => return,
            Ok(Opened::Later) | Err(_) => {}
            Ok(Opened::Stream(mut stream)) => loop {
                match stream.next().await {
                    Next::Told(event) => seen.borrow_mut().told.push(event),
                    Next::End => break,
                    Next::Broken => {
                        client.notes.complain("a stream broke off");
                        break;
                    }
                }
            },
        }
        let has_ended = seen.borrow().told.last().is_some_and(|event| state_of(&event.state).is_terminal());
        if !has_ended && last.is_none() && !seen.borrow().told.is_empty() {
            seen.borrow_mut().streams_ended.push(client.world.now());
        }
        client.rest().await;
    }
}

/// Waits for the end. The first answer comes when the server ends.
async fn wait(client: Client, seen: Rc<RefCell<Seen>>) {
    let path = format!("/v1/tasks/{WATCHED}?wait={}s", WAIT.as_secs());
    loop {
        match client.ask(Method::GET, &path, &[], "", WAIT).await {
            Ok(answer) if answer.status == 200 => {
                let task: TaskJson = answer.json();
                if task.has_ended() {
                    return;
                }
                seen.borrow_mut().polls_answered.push(client.world.now());
            }
            Ok(_) | Err(_) => {}
        }
        client.rest().await;
    }
}

/// Sends half a request and waits for the rest of its life.
async fn hang(client: Client) {
    let Ok(mut stream) = TcpStream::connect((SERVER, PORT)).await else { return };
    let half = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: {SERVER}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
    );
    if stream.write_all(half.as_bytes()).await.is_ok() {
        client.notes.reach("half a request was open");
    }
    let mut nothing = [0; 1];
    // Until the server lets go.
    let _ = timeout(WAIT, tokio::io::AsyncReadExt::read(&mut stream, &mut nothing)).await;
}
