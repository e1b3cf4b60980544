//! Connections on which nothing is asked, or only half of something: they take up all places there are, and don't keep them.

use std::time::Duration;

use hyper::Method;
use steadfast_server::api::IDLE_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use turmoil::net::TcpStream;

use super::client::Client;
use super::net::{Net, Outcome, SERVER};
use super::process::{CONNECTIONS_MAX, PORT, Roles, TOKEN};
use super::run as run_seed;

/// By then what was sent has arrived.
const ARRIVED: Duration = Duration::from_secs(1);

#[test]
fn idle_connections_are_closed_and_make_room() {
    let outcome = run_seed("network::idlers", 0, &run);
    assert_eq!(outcome.complaints, [""; 0]);
    assert_eq!(outcome.reached, ["a request found no place", "a request found a place"]);
}

fn run(seed: u64) -> Outcome {
    let mut net = Net::new(seed);
    net.calm();
    net.process(SERVER, Roles { serves: true, works: false });
    net.client(idle);
    net.run(|_, _| {})
}

async fn idle(client: Client) {
    sleep(ARRIVED).await;
    let since = Instant::now();
    let mut idlers = Vec::new();
    for number in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect((SERVER, PORT)).await.expect("there is room for it");
        let body = format!(
            "POST /v1/tasks HTTP/1.1\r\nhost: {SERVER}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99\r\n\r\n{{"
        );
        let begun = ["", "GET /v1/stats HTTP/1.1\r\nhost: ", &body][number % 3];
        stream.write_all(begun.as_bytes()).await.expect("it is connected");
        idlers.push(stream);
    }
    sleep(ARRIVED).await;
    let asked = client.ask(Method::GET, "/v1/stats", &[], "", Duration::ZERO).await;
    match asked {
        Err(_) => client.notes.reach("a request found no place"),
        Ok(_) => client.notes.complain("there are more places than there should be"),
    }
    sleep((since + IDLE_MAX - ARRIVED).duration_since(Instant::now())).await;
    for idler in &mut idlers {
        let read = timeout(ARRIVED * 4, idler.read_to_end(&mut Vec::new())).await;
        if !matches!(read, Ok(Ok(_))) {
            client.notes.complain(format!("an idle connection wasn't closed: {read:?}"));
        }
    }
    match client.ask(Method::GET, "/v1/stats", &[], "", Duration::ZERO).await {
        Ok(answer) if answer.status == 200 => client.notes.reach("a request found a place"),
        other => client.notes.complain(format!("afterwards a request was answered: {other:?}")),
    }
}
