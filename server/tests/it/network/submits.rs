//! Submits with an idempotency key, sent again through partitions, losses and crashes: one task for each key, under
//! the id that every answer names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use steadfast_sim::world::World;

use super::client::Client;
use super::judge::{self, Keyed};
use super::net::{Net, Outcome, SERVER};
use super::process::Roles;
use super::weather::{Blow, Weather};
use super::{found, sweep};

/// How many submits each client has.
const SUBMITS: u32 = 4;

/// What clients were answered for their keys.
type Answers = Rc<RefCell<Vec<Keyed>>>;

#[test]
fn a_key_stands_for_one_task_however_often_it_is_sent() {
    let goals = ["a request was repeated", "a repeated submit was known", "another request was refused"];
    sweep("network::submits", &goals, |seed| run(seed, true));
}

/// A server that forgets the key is the same as a client that sends none.
#[test]
fn a_key_that_is_dropped_is_noticed() {
    let complaints = found(|seed| run(seed, false)).join("\n");
    assert!(complaints.contains("was new twice"), "{complaints}");
}

fn run(seed: u64, keys: bool) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    let answers = Answers::default();
    for _ in 0..3 {
        let answers = answers.clone();
        net.client(move |client| submit_all(client, answers, keys));
    }
    let blows = [Blow::Partition, Blow::Stall, Blow::Crash(SERVER), Blow::Unplug(SERVER)];
    net.storm(|choices, clients| Weather::draw(choices, clients, &blows, 6));
    net.run(|world, notes| {
        for wrong in judge::keys(&stored(world), &answers.borrow()) {
            notes.complain(wrong);
        }
    })
}

async fn submit_all(client: Client, answers: Answers, keys: bool) {
    for number in 0..SUBMITS {
        client.pause("between submits", &[0, 50, 400, 1_500]).await;
        // The first is everybody's.
        let key = if number == 0 { "k-0".into() } else { format!("k-{}-{number}", client.number) };
        let in_header = client.pick("key in the header", 2) == 0;
        for _ in 0..=client.pick("sent again", 3) {
            let answer = if keys {
                client.submit_keyed(&key, in_header).await
            } else {
                client.submit_unkeyed(&key).await
            };
            if !answer.new {
                client.notes.reach("a repeated submit was known");
            }
            answers.borrow_mut().push(Keyed { key: key.clone(), id: answer.id, new: answer.new });
        }
        if keys && client.pick("another request", 3) == 1 {
            let body = format!(r#"{{"kind":"work","key":"{key}","payload":"another"}}"#);
            let answer = client.post_until_answered("/v1/tasks", &[], &body).await;
            if (answer.status, answer.problem().as_str()) == (409, "key_taken") {
                client.notes.reach("another request was refused");
            } else {
                client.notes.complain(format!("another request under {key} was answered {}", answer.status));
            }
        }
    }
}

/// The tasks that are stored, with their keys.
pub(super) fn stored(world: &World) -> BTreeMap<String, Option<String>> {
    let tasks = world.history().tasks();
    let pair = |task: &steadfast::Task| (task.id.to_string(), task.key.as_ref().map(ToString::to_string));
    tasks.values().map(|task| pair(task)).collect()
}
