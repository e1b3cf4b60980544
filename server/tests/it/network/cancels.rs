//! Cancels whose answers are lost and that are sent again: the last answer is true, and the task is never run after
//! one that acknowledges.

use std::cell::RefCell;
use std::rc::Rc;

use super::client::{Client, state_of};
use super::net::{Net, Outcome, SERVER};
use super::process::Roles;
use super::weather::{Blow, Weather};
use super::{judge, sweep};

/// How many tasks there are.
const TASKS: u64 = 6;

type Words = Rc<RefCell<Vec<(String, String)>>>;

#[test]
fn a_cancel_that_is_sent_again_is_answered_truly() {
    let goals = ["ended", "requested", "had_ended", "too_late", "a request was repeated"];
    sweep("network::cancels", &goals, run);
}

fn run(seed: u64) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    net.client(async |client: Client| {
        for number in 0..TASKS {
            let more =
                ["", r#","delay":"800ms""#, r#","delay":"1h""#][client.pick("when it is due", 3) as usize];
            client.submit(&format!("t{number}"), more).await;
        }
        // Whatever the others have left: the run ends with every task.
        for number in 0..TASKS {
            while !client.look(&format!("t{number}")).await.expect("it was accepted").has_ended() {
                client.rest().await;
            }
        }
    });
    let words = Words::default();
    for _ in 0..2 {
        let words = words.clone();
        net.client(move |client| cancel_all(client, words));
    }
    let blows = [Blow::Partition, Blow::Stall, Blow::Crash(SERVER)];
    net.storm(|choices, clients| Weather::draw(choices, clients, &blows, 6));
    net.run(|world, notes| {
        let tasks = world.history().tasks();
        for (id, word) in &*words.borrow() {
            let task = tasks.values().find(|task| task.id.as_str() == id).expect("it was seen");
            if let Some(wrong) = judge::cancel(word, task.state) {
                notes.complain(format!("{id}: {wrong}"));
            }
        }
    })
}

/// Cancels each task at some moment, sometimes twice.
async fn cancel_all(client: Client, words: Words) {
    for number in 0..TASKS {
        let id = format!("t{number}");
        while client.look(&id).await.is_none() {
            client.rest().await;
        }
        client.pause("before the cancel", &[0, 20, 100, 700]).await;
        for _ in 0..=client.pick("cancelled again", 2) {
            let word = client.cancel(&id).await;
            let goal = ["ended", "requested", "had_ended", "too_late"].into_iter().find(|goal| *goal == word);
            client.notes.reach(goal.expect("there is no other word"));
            words.borrow_mut().push((id.clone(), word.clone()));
            if client
                .look(&id)
                .await
                .is_some_and(|task| word == "ended" && state_of(&task.state) != steadfast::State::Cancelled)
            {
                client.notes.complain(format!("{id} was cancelled, and isn't"));
            }
        }
    }
}
