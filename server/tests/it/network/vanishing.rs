//! Clients that vanish in the middle of a request: before its end nothing is stored; after it either nothing or the
//! task, which the same request under its key finds.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;
use turmoil::net::TcpStream;

use super::calls::keyed;
use super::client::Client;
use super::judge::{self, Keyed};
use super::net::{Net, Outcome, SERVER};
use super::process::{PORT, Roles, TOKEN};
use super::submits::stored;
use super::sweep;
use super::weather::{Blow, Weather};

/// How often each client vanishes.
const REQUESTS: u32 = 4;
/// By then a request that was cut off has had its effect, if it has one.
const SETTLED: Duration = Duration::from_millis(400);

type Answers = Rc<RefCell<Vec<Keyed>>>;

#[test]
fn a_request_that_breaks_off_leaves_nothing_or_its_task() {
    let goals = [
        "a request was cut where it looked whole",
        "a task was stored that nobody was told of",
        "a request was lost whole",
    ];
    sweep("network::vanishing", &goals, run);
}

fn run(seed: u64) -> Outcome {
    let mut net = Net::new(seed);
    net.process(SERVER, Roles { serves: true, works: true });
    let answers = Answers::default();
    for _ in 0..3 {
        let answers = answers.clone();
        net.client(move |client| vanish_often(client, answers));
    }
    let blows = [Blow::Partition, Blow::Stall, Blow::Crash(SERVER)];
    net.storm(|choices, clients| Weather::draw(choices, clients, &blows, 4));
    net.run(|world, notes| {
        for wrong in judge::keys(&stored(world), &answers.borrow()) {
            notes.complain(wrong);
        }
    })
}

async fn vanish_often(client: Client, answers: Answers) {
    // Those who fall silent without closing their connection.
    let mut silent = Vec::new();
    for number in 0..REQUESTS {
        let key = format!("k-{}-{number}", client.number);
        client.pause("between requests", &[0, 30, 300, 1_000]).await;
        let (request, whole) = cut(&client, &key);
        let is_whole = request.len() == whole;
        if let Ok(mut stream) = TcpStream::connect((SERVER, PORT)).await {
            // In two pieces, as a network may part them.
            let half = request.len() / 2;
            let _ = stream.write_all(&request[..half]).await;
            client.pause("between pieces", &[0, 5, 60]).await;
            let _ = stream.write_all(&request[half..]).await;
            client.pause("stays", &[0, 2, 10, 60, 200]).await;
            if client.pick("falls silent", 3) == 2 {
                silent.push(stream);
            }
        }
        sleep(SETTLED).await;
        let is_stored = stored(&client.world).values().flatten().any(|stored| *stored == key);
        match (is_whole, is_stored) {
            (false, true) => client.notes.complain(format!("a part of the request under {key} was stored")),
            (true, true) => client.notes.reach("a task was stored that nobody was told of"),
            (true, false) => client.notes.reach("a request was lost whole"),
            (false, false) => {}
        }
        let answer = client.submit_keyed(&key, false).await;
        if is_stored && answer.new {
            client.notes.complain(format!("{key} was stored, and then was new"));
        }
        answers.borrow_mut().push(Keyed { key, id: answer.id, new: answer.new });
    }
}

/// The bytes of a request that are sent before the client vanishes, and how long the whole is.
fn cut(client: &Client, key: &str) -> (Vec<u8>, usize) {
    // Space after the task: what comes before it is a whole task, but no whole request.
    let task = keyed(key, false).1;
    let body = format!("{task}          ");
    let head = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: {SERVER}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request = format!("{head}{body}").into_bytes();
    let within = |from: usize, to: usize| {
        from + client.pick("cut at", u32::try_from(to - from).expect("short")) as usize
    };
    let sent = match client.pick("cut where", 8) {
        0 => within(1, head.len()),
        1 => within(head.len(), head.len() + task.len()),
        2 | 3 => {
            client.notes.reach("a request was cut where it looked whole");
            within(head.len() + task.len(), request.len())
        }
        _ => request.len(),
    };
    (request[..sent].to_vec(), request.len())
}
