//! A server that works and a worker beside it, both killed, unplugged and restarted, under clients that submit:
//! every task that was acknowledged ends, once, under its id.

use super::client::Client;
use super::net::{Net, Outcome, SERVER};
use super::process::Roles;
use super::sweep;
use super::weather::{Blow, Weather};

/// The host of the worker.
const WORKER: &str = "worker";
/// How many tasks each client submits.
const TASKS: u64 = 4;

/// What befalls everybody without a word to anybody.
const CRASHES: [Blow; 4] = [Blow::Partition, Blow::Crash(SERVER), Blow::Crash(WORKER), Blow::Unplug(SERVER)];

#[test]
fn acknowledged_tasks_end_once_whatever_is_killed() {
    let goals = ["a request was repeated", "a task was rescued", "a task was carried on after a drain"];
    let blows = [&CRASHES[..], &[Blow::Restart(SERVER), Blow::Restart(WORKER)]].concat();
    sweep("network::restarts", &goals, |seed| run(seed, &blows));
}

/// What a run does depends on its seed alone, though the hosts' runtimes begin at real instants. Where a server drains,
/// chance may have a word: tokio and axum choose by a generator of their own whom they tell first.
#[test]
fn a_seed_is_a_run() {
    let seeds = super::number("STEADFAST_SEEDS").unwrap_or(3);
    for seed in 0..seeds {
        let history =
            || -> Vec<String> { run(seed, &CRASHES).entries.iter().map(ToString::to_string).collect() };
        let (first, second) = (history(), history());
        let differs = first.iter().zip(&second).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

fn run(seed: u64, blows: &[Blow]) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    net.process(WORKER, Roles { serves: false, works: true });
    for _ in 0..3 {
        net.client(submit_and_look);
    }
    net.storm(|choices, clients| Weather::draw(choices, clients, blows, 6));
    net.run(|world, notes| {
        for task in world.history().tasks().values() {
            if task.rescues > 0 {
                notes.reach("a task was rescued");
            }
            // A drained attempt is given back: another fence, and no further attempt.
            if task.fence > u64::from(task.attempt + task.rescues) {
                notes.reach("a task was carried on after a drain");
            }
        }
    })
}

/// Submits tasks that wait for each other and for a slot, and looks at each until it has ended.
async fn submit_and_look(client: Client) {
    let id = |number: u64| format!("t{}{number}", client.number);
    for number in 0..TASKS {
        client.pause("between submits", &[0, 20, 300, 1_200]).await;
        let more = match client.pick("what it waits for", 4) {
            1 if number > 0 => format!(r#","after":["{}"]"#, id(number - 1)),
            2 => r#","slot":"s","on_conflict":"queue""#.to_owned(),
            3 => r#","delay":"400ms""#.to_owned(),
            _ => String::new(),
        };
        let submitted = client.submit(&id(number), &more).await;
        if submitted.id != id(number) {
            client.notes.complain(format!("{} was answered with {}", id(number), submitted.id));
        }
    }
    for number in 0..TASKS {
        while !client.look(&id(number)).await.expect("what was accepted is there").has_ended() {
            client.rest().await;
        }
    }
}
